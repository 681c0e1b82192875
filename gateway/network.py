"""Connections to others: who we are and whom we trust (TLS), and what goes wrong on the way, in words.

Certificates and keys are read again when their files changed (`stamps` tells), so that what was renewed is used.
"""

import os
import pwd
import re
import socket
import ssl
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from gateway.errors import TidegateError
from gateway.plugin import Mistake
from gateway.quantity import Secret

CERTIFICATE, KEY = b"CERTIFICATE-----", b"PRIVATE KEY-----"  # how the first line of a PEM block ends
LARGEST = 4 << 20  # bytes of a file; a bundle of every CA there is has less than one MiB


class Unusable(TidegateError):
    """A file that the connection needs cannot be used; the text names it, and what to try."""


class Peer(NamedTuple):
    """What a person calls the far side, how its url begins without TLS, and the usual port with it."""

    name: str
    plain: str
    secure_port: int


class Papers(Protocol):
    """The options that say whom we trust, and who we are."""

    @property
    def ca_file(self) -> str | None: ...

    @property
    def cert_file(self) -> str | None: ...

    @property
    def key_file(self) -> str | None: ...

    @property
    def key_password_file(self) -> Secret | None: ...


def tls_context(papers: Papers) -> ssl.SSLContext:
    """Our side of TLS; the far side's certificate is always verified. Reads small files. Raises Unusable."""
    _look("ca_file", papers.ca_file, CERTIFICATE)
    _look("cert_file", papers.cert_file, CERTIFICATE)
    _look("key_file", papers.key_file, KEY)
    try:
        found = ssl.create_default_context(cafile=papers.ca_file)
    except OSError as error:
        raise Unusable(f"ca_file {papers.ca_file} is damaged: {error}; get it again from your CA") from error
    if papers.cert_file is not None and papers.key_file is not None:
        _identify(found, papers.key_password_file, papers.cert_file, papers.key_file)
    return found


def listening_context(
    cert_file: str, key_file: str, key_password_file: Secret | None, client_ca_file: str | None
) -> ssl.SSLContext:
    """The side of TLS that listens; with `client_ca_file` for those alone who show a certificate that it signed.

    Reads small files. Raises Unusable.
    """
    _look("cert_file", cert_file, CERTIFICATE)
    _look("key_file", key_file, KEY)
    _look("client_ca_file", client_ca_file, CERTIFICATE)
    found = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if client_ca_file is not None:
        found.verify_mode = ssl.CERT_REQUIRED
        try:
            found.load_verify_locations(client_ca_file)
        except OSError as error:
            raise Unusable(f"client_ca_file {client_ca_file} is damaged: {error}; get it again from your CA") from error
    _identify(found, key_password_file, cert_file, key_file)
    return found


def doubts(papers: Mapping[str, str | None]) -> list[Mistake]:
    """What is wrong with files of certificates and keys, by their options, as far as we may read them now.

    They may be renewed before they are used, and whoever checks a configuration may not be who runs it.
    """
    found = []
    for option, path in papers.items():
        try:
            _look(option, path, KEY if option == "key_file" else CERTIFICATE)
        except Unusable as error:
            if not isinstance(error.__cause__, PermissionError):
                found.append(Mistake((option,), str(error).removeprefix(f"{option} ")))
    return found


def stamps(*files: str | None) -> tuple[object, ...]:
    """What changes when one of these files does: an entry for each, None where there is none."""
    return tuple([_stamp(file) for file in files])


def _stamp(path: str | None) -> object:
    try:
        found = os.stat(path) if path is not None else None
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino) if found is not None else None


def _look(option: str, path: str | None, wanted: bytes) -> None:
    """Whether a file, if there is one, can be read and holds what it should."""
    if path is None:
        return
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST)
    except PermissionError as error:
        raise Unusable(f"{option} {path}: {_me()} may not read it; try: chown {_me()} {path}") from error
    except OSError as error:
        raise Unusable(f"{option} {path}: {error.strerror}; correct the path, or put the file there") from error
    if wanted not in data:
        what = "certificate" if wanted is CERTIFICATE else "private key"
        told = f"-----BEGIN {'' if wanted is CERTIFICATE else '… '}{wanted.decode()}"
        raise Unusable(f"{option} {path} holds no {what} in PEM form ({told}); write another, or convert it from DER")


def _me() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _identify(found: ssl.SSLContext, password_file: Secret | None, cert_file: str, key_file: str) -> None:
    """Load our own certificate. Without a password of our own OpenSSL would ask for one at the terminal."""
    asked = False

    def password() -> bytes:
        nonlocal asked
        asked = True
        if password_file is None:
            raise Unusable(f"key_file {key_file} is encrypted; write key_password_file")
        return password_file.read()

    try:
        found.load_cert_chain(cert_file, key_file, password)
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            told = f"key_file {key_file} does not belong to cert_file {cert_file}; renew both together"
        elif asked:
            told = f"the password in key_password_file does not open key_file {key_file}; correct it"
        else:
            told = f"cert_file {cert_file} or key_file {key_file} is damaged: {error.reason or error}; get them again"
        raise Unusable(told) from error
    except (OSError, ValueError) as error:  # of the password: its file, or its length
        raise Unusable(f"the password of key_file {key_file} cannot be used: {error}; see key_password_file") from error


_NO_TLS = "no TLS is spoken on this port; write {plain}, or the port that speaks it, often {port}"
_OLD = "TLS 1.2 or 1.3 is needed, and {peer} speaks neither; update {peer}"
# Alerts of TLS, by the end of OpenSSL's name for them.
_ALERTS = {
    "CERTIFICATE_REQUIRED": "{peer} asks for a certificate of ours; write cert_file and key_file",
    "HANDSHAKE_FAILURE": "no agreement with {peer}; it may ask for a certificate of ours (cert_file, key_file), or "
    "speak only an old TLS",
    "CERTIFICATE_EXPIRED": "{peer} says that our certificate has expired; renew cert_file, or set its clock",
    "CERTIFICATE_REVOKED": "{peer} says that our certificate was revoked; get a new cert_file and key_file",
    "UNKNOWN_CA": "{peer} does not know who signed our certificate; its own list must hold that CA, and cert_file "
    "any certificates in between",
    "BAD_CERTIFICATE": "{peer} does not take our certificate: check that it is valid already and made for "
    "clients; its log says more",
    "UNSUPPORTED_CERTIFICATE": "{peer} does not take our certificate; get one that is made for clients",
    "CERTIFICATE_UNKNOWN": "{peer} does not take our certificate; its log says why",
    "ACCESS_DENIED": "{peer} knows our certificate and does not let it in; check what it allows",
    "PROTOCOL_VERSION": _OLD,
    "UNSUPPORTED_PROTOCOL": _OLD,
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
}
_EXPIRED, _NOT_YET, _REVOKED = 10, 9, 23  # OpenSSL's X509_V_ERR_…
_NOBODY = (2, 18, 19, 20, 21)
_OTHER_NAME = (62, 64)


def explain(error: OSError, peer: Peer) -> str:
    """An error of the network or of TLS, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {_verification(error, peer)}"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        known = _ALERTS.get(re.sub(r"^.*_ALERT_", "", reason), "")
        return f"TLS: {known.format(peer=peer.name, plain=peer.plain, port=peer.secure_port) or reason or error}"
    if isinstance(error, socket.gaierror):
        return f"{error.strerror}; check the name in the url, and the network"
    number = re.search(r"\[Errno (\d+)\]", str(error))  # asyncio hides the errors of several addresses in one text
    text = os.strerror(int(number[1])) if number else error.strerror or str(error) or type(error).__name__
    return f"{text}: {error.filename}" if error.filename else text


def _verification(error: ssl.SSLCertVerificationError, peer: Peer) -> str:
    code, message = error.verify_code, error.verify_message.rstrip(".")
    if code == _EXPIRED:
        return f"it has expired; renew it at {peer.name}, or set our clock if that is wrong"
    if code == _NOT_YET:
        return "it is not valid yet; set our clock if that is wrong"
    if code == _REVOKED:
        return f"it was revoked; {peer.name} needs a new one"
    if code in _NOBODY:
        return f"{message}; ca_file must hold the certificate of the CA that signed it"
    if code in _OTHER_NAME:
        return f"{message}; write the url with a name that its certificate holds"
    return message
