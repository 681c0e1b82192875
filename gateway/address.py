"""Where a gateway is found, and what can be reached from where."""

import ipaddress

ADDRESS = r"^(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):[0-9]{1,5}$"  # of which parse_address makes host and port
CONTROL = "control"  # the name of the control socket, in the folder of the log


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:8088`, `localhost:8088` or `[::1]:8088`. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not host or not port.isascii() or not port.isdigit():
        raise ValueError(f"{text!r} is no address; write host:port")
    if len(port) > 5 or int(port) > 65535:
        raise ValueError(f"{text!r} has no port up to 65535; write another")
    return host, int(port)


def collide(one: str, other: str) -> bool:
    """Whether nobody can listen at one of two addresses while somebody does at the other."""
    (host, port), (theirs, their_port) = parse_address(one), parse_address(other)
    mine, their = _spelt(host), _spelt(theirs)
    return port == their_port and (mine == their or "" in (mine, their))


def _spelt(host: str) -> str:
    """One way to write a host; empty for every address of this machine."""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return "127.0.0.1" if host.lower() == "localhost" else host.lower()
    return "" if found.is_unspecified else str(found)


def is_loopback(host: str) -> bool:
    """Whether a host, by number or name, can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
