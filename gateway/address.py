"""Where a gateway is found, and what can be reached from where."""

import ipaddress

CONTROL = "control"  # the name of the control socket, in the folder of the log


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:8765`, `localhost:8765` or `[::1]:8765`. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is no address; write it like 127.0.0.1:8765 or [::1]:8765")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether a host, by number or name, can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
