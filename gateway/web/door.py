"""A listening socket before anybody came, and whom to take together of those who come."""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

BACKLOG = 64  # connections the kernel holds while nobody accepts


def listen(host: str, port: int) -> socket.socket:
    """Take an address, so that one that is taken is known at once. Raises OSError."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def written(listener: socket.socket) -> str:
    """Its address as one writes it in a url."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def somebody(listeners: Sequence[socket.socket]) -> None:
    """Wait for the first client of any of these; the kernel holds it until it is accepted."""
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    for listener in listeners:
        loop.add_reader(listener, came.set)
    try:
        await came.wait()
    finally:
        for listener in listeners:
            loop.remove_reader(listener)


def address_of(client: tuple[str, int] | None) -> str:
    """Whose tries are counted together: an IPv4 address; of IPv6 the /64, which one machine has to itself."""
    host = client[0].partition("%")[0] if client else ""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))
    return host
