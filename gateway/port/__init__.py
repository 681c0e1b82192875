"""Serial ports: which there are, which one is meant, and how one is opened, here or at the far end of a network.

Nothing here touches the event loop: what opens and closes a port may block, and is called in a thread.
"""

from gateway.port.lookup import NotThere, Usb, find, ports
from gateway.port.wire import Line, Rs485, Wire, connect, open_terminal, remote
from gateway.port.words import busy, refused

__all__ = [
    "Line",
    "NotThere",
    "Rs485",
    "Usb",
    "Wire",
    "busy",
    "connect",
    "find",
    "open_terminal",
    "ports",
    "refused",
    "remote",
]
