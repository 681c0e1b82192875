"""What an examination found."""

from typing import Literal

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """`ok`; `attention`: it works, and may not do what you expect; `trouble`: readings are lost, or will be."""

    level: Literal["ok", "attention", "trouble"]
    about: str
    seen: str
    advice: str = ""  # what to try
