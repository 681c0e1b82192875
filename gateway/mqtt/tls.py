"""Our side of TLS: whom we trust and who we are, read from files at every connect, so that what was renewed is used."""

import os
import pwd
import ssl

from gateway.mqtt.options import BrokerOptions
from gateway.mqtt.trouble import LinkLost

CERTIFICATE, KEY = b"CERTIFICATE-----", b"PRIVATE KEY-----"  # how the first line of a PEM block ends
LARGEST = 4 << 20  # bytes of a file; a bundle of every CA there is has less than one MiB


def context(options: BrokerOptions) -> ssl.SSLContext | None:
    """None without TLS. Reads small files. Raises LinkLost with the file that cannot be used, and what to try."""
    if not options.address.tls:
        return None
    for option, path, wanted in (
        ("ca_file", options.ca_file, CERTIFICATE),
        ("cert_file", options.cert_file, CERTIFICATE),
        ("key_file", options.key_file, KEY),
    ):
        if path is not None:
            _look(option, path, wanted)
    try:
        found = ssl.create_default_context(cafile=options.ca_file)
    except OSError as error:
        raise LinkLost(f"ca_file {options.ca_file} is damaged: {error}; get it again from your CA") from error
    if options.cert_file is not None and options.key_file is not None:
        _identify(found, options, options.cert_file, options.key_file)
    return found


def _look(option: str, path: str, wanted: bytes) -> None:
    """Whether a file is there, may be read, and holds what it should."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST)
    except PermissionError as error:
        raise LinkLost(f"{option} {path}: {_me()} may not read it; try: chown {_me()} {path}") from error
    except OSError as error:
        raise LinkLost(f"{option} {path}: {error.strerror}; correct the path, or put the file there") from error
    if wanted not in data:
        what = "certificate" if wanted is CERTIFICATE else "private key"
        told = f"-----BEGIN {'' if wanted is CERTIFICATE else '… '}{wanted.decode()}"
        raise LinkLost(f"{option} {path} holds no {what} in PEM form ({told}); write another, or convert it from DER")


def _me() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _identify(found: ssl.SSLContext, options: BrokerOptions, cert_file: str, key_file: str) -> None:
    """Load our own certificate. Without a password of our own OpenSSL would ask for one at the terminal."""
    asked = False

    def password() -> bytes:
        nonlocal asked
        asked = True
        if options.key_password_file is None:
            raise LinkLost(f"key_file {key_file} is encrypted; write key_password_file")
        return options.key_password_file.read()

    try:
        found.load_cert_chain(cert_file, key_file, password)
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            told = f"key_file {key_file} does not belong to cert_file {cert_file}; renew both together"
        elif asked:
            told = f"the password in key_password_file does not open key_file {key_file}; correct it"
        else:
            told = f"cert_file {cert_file} or key_file {key_file} is damaged: {error.reason or error}; get them again"
        raise LinkLost(told) from error
    except (OSError, ValueError) as error:  # of the password: its file, or its length
        raise LinkLost(f"the password of key_file {key_file} cannot be used: {error}; see key_password_file") from error
