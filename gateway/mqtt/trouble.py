"""What goes wrong between us and a broker, in words that say what to try."""

from enum import IntEnum

from gateway import network
from gateway.errors import TidegateError
from gateway.network import Peer


class LinkLost(TidegateError):
    """There is no connection, or no longer; the text says why, for the person who reads the status.

    `code` is the broker's reason code where it did not let us in, else None; `mute`: it was there and
    said nothing to our hello, whether it hung up or not.
    """

    def __init__(self, reason: str, code: IntEnum | None = None, *, mute: bool = False) -> None:
        super().__init__(reason)
        self.code, self.mute = code, mute


class HungUp(ConnectionError):
    """The far side ended what the connection runs over; the text says how."""


# What to try, by the name of a reason code, where the name alone does not tell.
_TRY = {
    "BAD_USER_NAME_OR_PASSWORD": "check username and the password's file",
    "NOT_AUTHORIZED": "check the login, and what the broker allows it",
    "UNSUPPORTED_PROTOCOL_VERSION": "leave version out, or write auto",
    "CLIENT_ID_NOT_VALID": "write another client_id",
    "BANNED": "ask the broker's owner",
    "SERVER_BUSY": "we come back",
    "SERVER_SHUTTING_DOWN": "we come back",
    "RETAIN_NOT_SUPPORTED": "it keeps no messages: remove status_topic and retain",
    "SHARED_SUBSCRIPTIONS_NOT_SUPPORTED": "write the filter without $share/…/",
}

BROKER = Peer("the broker", "mqtt://", 8883)


def words(code: IntEnum, text: str | None = None) -> str:
    """A reason code as a person says it, with the broker's own explanation if it gave one, and what to try."""
    plain = code.name.lower().replace("_", " ")
    told = f"{plain} ({text})" if text else plain
    return f"{told}; {_TRY[code.name]}" if code.name in _TRY else told


def refused(code: IntEnum) -> bool:
    """Whether a reason code is a failure. (The codec calls its codes IntEnum, but they do not compare as numbers.)"""
    return int(code) >= 0x80


def stranger(head: bytes) -> str | None:
    """Who answers, by the first bytes, where it is no MQTT broker; None if it may be one."""
    if head.startswith(b"\x15\x03"):
        return "TLS is spoken on this port; write mqtts:// in the url"
    if head.startswith(b"HTTP/"):
        return "a web server answers there, no MQTT broker; check the port (MQTT has 1883, with TLS 8883)"
    return None


def shut_out(tls: bool) -> str:
    """The far side ended the connection at our first words, and did not say why."""
    told = "it ended the connection without letting us in"
    if tls:
        asks = "cert_file and key_file if it asks for a certificate of ours; its log says more"
        return f"{told}; write mqtt:// if no TLS is spoken there, or {asks}"
    return f"{told}; write mqtts:// if it expects TLS there; its log says more"


def explain(error: OSError) -> str:
    """An error of the network or of TLS, in words."""
    return network.explain(error, BROKER)
