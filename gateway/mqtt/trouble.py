"""What goes wrong between us and a broker, in words that say what to try."""

import os
import re
import socket
import ssl
from enum import IntEnum

from gateway.errors import TidegateError


class LinkLost(TidegateError):
    """There is no connection, or no longer; the text says why, for the person who reads the status.

    `code` is the broker's reason code where it did not let us in, else None.
    """

    def __init__(self, reason: str, code: IntEnum | None = None) -> None:
        super().__init__(reason)
        self.code = code


# What to try, by the name of a reason code, where the name alone does not tell.
_TRY = {
    "BAD_USER_NAME_OR_PASSWORD": "check username and the password's file",
    "NOT_AUTHORIZED": "check the login, and what the broker allows it",
    "CLIENT_ID_NOT_VALID": "write another client_id",
    "BANNED": "ask the broker's owner",
    "SERVER_BUSY": "we come back",
    "SERVER_SHUTTING_DOWN": "we come back",
    "RETAIN_NOT_SUPPORTED": "it keeps no messages: remove status_topic and retain",
    "SHARED_SUBSCRIPTIONS_NOT_SUPPORTED": "write the filter without $share/…/",
}

# Alerts of TLS, by the end of OpenSSL's name for them.
_ALERTS = {
    "CERTIFICATE_REQUIRED": "the broker asks for a certificate of ours; write cert_file and key_file",
    "HANDSHAKE_FAILURE": "no agreement with the broker; it may ask for a certificate of ours (cert_file, key_file), or "
    "speak only an old TLS",
    "CERTIFICATE_EXPIRED": "the broker says that our certificate has expired; renew cert_file, or set its clock",
    "CERTIFICATE_REVOKED": "the broker says that our certificate was revoked; get a new cert_file and key_file",
    "UNKNOWN_CA": "the broker does not know who signed our certificate; its own list must hold that CA, and cert_file "
    "any certificates in between",
    "BAD_CERTIFICATE": "the broker does not take our certificate: check that it is valid already and made for "
    "clients; its log says more",
    "UNSUPPORTED_CERTIFICATE": "the broker does not take our certificate; get one that is made for clients",
    "CERTIFICATE_UNKNOWN": "the broker does not take our certificate; its log says why",
    "ACCESS_DENIED": "the broker knows our certificate and does not let it in; check what it allows",
    "PROTOCOL_VERSION": "TLS 1.2 or 1.3 is needed, and the broker speaks neither; update the broker",
    "UNSUPPORTED_PROTOCOL": "TLS 1.2 or 1.3 is needed, and the broker speaks neither; update the broker",
    "WRONG_VERSION_NUMBER": "no TLS is spoken on this port; write mqtt://, or the port that speaks it, often 8883",
    "RECORD_LAYER_FAILURE": "no TLS is spoken on this port; write mqtt://, or the port that speaks it, often 8883",
}
_EXPIRED, _NOT_YET, _REVOKED = 10, 9, 23  # OpenSSL's X509_V_ERR_…
_NOBODY = (2, 18, 19, 20, 21)
_OTHER_NAME = (62, 64)


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
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {_verification(error)}"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        known = _ALERTS.get(re.sub(r"^.*_ALERT_", "", reason))
        return f"TLS: {known or reason or error}"
    if isinstance(error, socket.gaierror):
        return f"{error.strerror}; check the name in the url, and the network"
    number = re.search(r"\[Errno (\d+)\]", str(error))  # asyncio hides the errors of several addresses in one text
    text = os.strerror(int(number[1])) if number else error.strerror or str(error) or type(error).__name__
    return f"{text}: {error.filename}" if error.filename else text


def _verification(error: ssl.SSLCertVerificationError) -> str:
    code, message = error.verify_code, error.verify_message.rstrip(".")
    if code == _EXPIRED:
        return "it has expired; renew it at the broker, or set our clock if that is wrong"
    if code == _NOT_YET:
        return "it is not valid yet; set our clock if that is wrong"
    if code == _REVOKED:
        return "it was revoked; the broker needs a new one"
    if code in _NOBODY:
        return f"{message}; ca_file must hold the certificate of the CA that signed it"
    if code in _OTHER_NAME:
        return f"{message}; write the url with a name that its certificate holds"
    return message
