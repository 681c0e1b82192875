"""Where a broker is and how to log in: the options that every MQTT plugin shares."""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from gateway.address import is_loopback
from gateway.network import doubts
from gateway.plugin import Mistake
from gateway.quantity import Duration, LocalPath, Secret, Size

PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
USUAL_PATH = "/mqtt"  # of a websocket
SOONEST_S = 10.0  # between two messages of status_topic
LONGEST_TOPIC = 60_000  # bytes, with room for the gateway's id
SMALLEST_PACKET = 1024  # bytes; a CONNACK with its properties must fit


class Address(NamedTuple):
    host: str
    port: int
    tls: bool
    path: str = ""  # of the websocket; "" where there is none

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}{self.path}"


class BrokerOptions(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """`mqtt://host:port` or, over websockets, `ws://host:port/path`; `mqtts://` and `wss://` with TLS."""

    url: str
    version: Annotated[Literal["auto", 3, 5], Meta(extra={"say": "auto, 5, or 3 for MQTT 3.1.1"})] = "auto"
    client_id: str | None = None
    username: str | None = None
    password_file: Secret | None = None
    ca_file: LocalPath | None = None
    cert_file: LocalPath | None = None
    key_file: LocalPath | None = None
    key_password_file: Secret | None = None
    status_topic: str | None = None
    status_every: Duration = Duration(300)
    offline_after: Duration = Duration(30)
    keepalive: Duration = Duration(60)
    connect_timeout: Duration = Duration(10)
    max_packet: Size = Size(256 * 1024)

    def __post_init__(self) -> None:
        address = self.address
        if not address.tls and (self.ca_file or self.cert_file or self.key_file):
            raise ValueError("ca_file, cert_file and key_file need a url that starts with mqtts:// or wss://")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file belong together")
        if self.key_password_file is not None and self.key_file is None:
            raise ValueError("key_password_file needs a key_file")
        if self.password_file is not None and self.username is None:
            raise ValueError("password_file needs a username")
        if not 1 <= self.keepalive <= 65535:
            raise ValueError("keepalive must be between 1s and 18h")
        if self.connect_timeout <= 0:
            raise ValueError("connect_timeout must be more than 0s")
        if not SMALLEST_PACKET <= self.max_packet < 1 << 28:
            raise ValueError("max_packet must be between 1KiB and 256MiB")
        if self.status_topic is not None and (problem := _status_problem(self.status_topic)) is not None:
            raise ValueError(f"status_topic {self.status_topic!r}: {problem}")
        if self.status_every < SOONEST_S:
            raise ValueError("status_every must be at least 10s")
        if not 0 <= self.offline_after <= 86400:
            raise ValueError("offline_after must be between 0s and 1d")

    def claims(self, gateway: str, name: str) -> Mapping[str, str]:
        """A broker lets one client of a name in at a time: a second one throws the first one out, and so on."""
        taken = {"client_id": f"the client id {self.client(gateway, name)!r} at {self.address}"}
        if self.status_topic is not None:
            taken["status_topic"] = f"the status topic {self.status_at(gateway)!r} at {self.address}"
        return taken

    def warnings(self) -> list[Mistake]:
        address = self.address
        found = doubts({"ca_file": self.ca_file, "cert_file": self.cert_file, "key_file": self.key_file})
        if self.password_file is not None and not address.tls and not is_loopback(address.host):
            secure = "wss" if address.path else "mqtts"
            told = f"the password travels in the open to {address.host}; write {secure}:// if the broker speaks TLS"
            found.append(Mistake(("url",), told))
        if self.version == 3 and self.status_topic is not None and self.offline_after:
            told = "MQTT 3.1.1 knows no offline_after: the broker says offline as soon as a connection breaks"
            found.append(Mistake(("status_topic",), told))
        return found

    def client(self, gateway: str, name: str) -> str:
        """Our name at the broker, for the entry called `name`."""
        return self.client_id or f"tidegate-{gateway}-{name}"

    def status_at(self, gateway: str) -> str:
        """The topic where the gateway announces itself; empty for none."""
        return (self.status_topic or "").replace("{gateway}", gateway)

    @property
    def address(self) -> Address:
        """Host, port, whether TLS is used, and the websocket's path. Raises ValueError with what to write instead."""
        example = "write mqtt://host:1883, or mqtts://host:8883 for TLS"
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError:  # of the port, or of brackets
            raise ValueError(f"{self.url!r} has no port from 1 to 65535 after its host; {example}") from None
        if parts.scheme not in PORTS:
            raise ValueError(f"{self.url!r} is no broker; {example}")
        if "@" in parts.netloc:
            raise ValueError("no login inside the url; use username and password_file")
        over, path = parts.scheme in ("ws", "wss"), ""
        if over:
            example = "write ws://host:port/mqtt, or wss:// for TLS"
            path = parts.path if parts.path not in ("", "/") else USUAL_PATH
            if not path.isascii() or not path.isprintable() or " " in path:
                raise ValueError(f"{self.url!r}: a path is plain ASCII, anything else is written like %20")
        if (parts.path not in ("", "/") and not over) or parts.query or parts.fragment or not parts.hostname:
            told = "a scheme, a host, a port and a path" if over else "a scheme, a host and a port"
            raise ValueError(f"{self.url!r} must be {told}, nothing more; {example}")
        return Address(parts.hostname, port or PORTS[parts.scheme], parts.scheme in ("mqtts", "wss"), path)


def _status_problem(topic: str) -> str | None:
    rest = topic.replace("{gateway}", "g")
    if "{" in rest or "}" in rest:
        return "only {gateway} can be filled in"
    if not rest or any(sign in rest for sign in "+#\0") or len(rest.encode()) > LONGEST_TOPIC:
        return "a topic is not empty and holds neither + nor #; write it like gw/{gateway}/status"
    if rest.startswith("$"):
        return "topics that begin with $ are the broker's own; write it like gw/{gateway}/status"
    return None
