"""How large a log may grow, and where it is."""

import msgspec


class LogOptions(msgspec.Struct, frozen=True):
    """`path` is a folder; the rest are bytes, but `seal`: the records that make a block."""

    path: str
    size: int = 2 << 30  # of the pages of the database that hold something
    journal: int = 8 << 20
    memory: int = 16 << 20  # of all tails together
    seal: int = 8192
