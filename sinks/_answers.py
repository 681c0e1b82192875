"""What the answer to a request of the http sink means: taken, to be sent again, or never to be taken."""

import random
import re
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Protocol

from gateway.errors import DeliveryRefused, DeliveryTooLarge, SinkUnavailable
from gateway.http_client import Answer

LONGEST_WAIT_S = 3600.0  # that a receiver can ask for
SHOWN = 160  # characters of an answer that a person reads

# What a status means for who runs the gateway, where it is not the batch's fault.
_TRY = {
    401: "it does not accept our login; check token_file, or username and password_file, or header_files",
    402: "it asks for money; ask its owner",
    403: "our login may not write there; check its rights, and the path in the url",
    404: "it knows no such path; check the url",
    405: "it takes another method there; check method and url",
    406: "it does not take this format; write another format",
    407: "a proxy asks for a login, which we cannot give; have it let this machine through",
    409: "it says that this is a conflict; if that means that it has the batch, let it answer 200",
    410: "nothing is there any more; check the url",
    411: "something on the way takes the length of a request away; look at the proxy",
    414: "the url is too long for it; shorten it",
    415: "it does not take this format; write another format, or Content-Type in headers",
    421: "it does not serve that name; check the host in the url",
    426: "it wants another protocol; write https:// if the url does not",
    431: "the headers are too large for it; shorten them",
    451: "it may not take it by law; ask its owner",
    511: "the network asks for a login; log in to it",
}
_BAD = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
_BAD_RECORD = (HTTPStatus.REQUEST_URI_TOO_LONG, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)  # its key stands in them


class Yes(Protocol):
    """The options that say which answer is a yes."""

    @property
    def accept(self) -> Sequence[int]: ...

    @property
    def expect(self) -> str | None: ...

    @property
    def echo(self) -> bool: ...


def judge(
    answer: Answer, name: str, yes: Yes, *, server: str, secrets: Sequence[str], raw: bool, now: int
) -> DeliveryRefused | DeliveryTooLarge | None:
    """None: what was sent as `name` is stored. Returns why it will never be taken, and raises SinkUnavailable for all
    that is not its fault. `raw`: it was a single record; `secrets` are not shown, should the receiver say them back;
    `now` in ns.
    """
    status, told, said = answer.status, f"{server} answers {answer}", _said(answer, secrets)
    if 200 <= status < 300:
        doubt = _doubt(answer, name, yes, said)
        if doubt is not None:
            raise SinkUnavailable(told + doubt)
        return None
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return DeliveryTooLarge(f"{told}{said} (see batch: bytes)")
    if status in _BAD or (raw and status in _BAD_RECORD):
        return DeliveryRefused(told + said)
    if 300 <= status < 400:
        where = _plain(answer.headers.get("location", ""), secrets)
        raise SinkUnavailable(
            f"{told}{where and f', to {where}'}: a redirect is not followed; write the url that it leads to, or log in "
            "to the network if that is its login page"
        )
    advice = f"; {_TRY[status]}" if status in _TRY else ""
    raise SinkUnavailable(f"{told}{said}{advice}", _retry_after(answer.headers, now))


def _doubt(answer: Answer, name: str, yes: Yes, said: str) -> str | None:
    """Why an answer that says yes may not mean it; None: it does."""
    if answer.status not in yes.accept:
        return f"{said}; add it to accept if that means that all of a batch is stored"
    if yes.expect is not None and yes.expect.encode() not in answer.body:
        return f"{said}, without the text of expect; see there what the receiver must say"
    if yes.echo and not _names(answer, name):
        return " without the name of the batch, so something else may answer in its place; see echo"
    if yes.expect is None and not yes.echo and _is_page(answer):
        return " with a web page, as the login page of a network does; check the url, or log in to the network"
    return None


def _names(answer: Answer, name: str) -> bool:
    if answer.headers.get("idempotency-key") == name:
        return True
    return re.search(re.escape(name.encode()) + rb"(?![0-9])", answer.body) is not None


def _said(answer: Answer, secrets: Sequence[str]) -> str:
    """The receiver's own words, if they are for reading."""
    text = "" if _is_page(answer) else _plain(answer.body.decode("utf-8", "replace"), secrets)
    return text and f": {text}"


def _plain(text: str, secrets: Sequence[str]) -> str:
    """A text from outside on one short line, without our secrets, and with nothing that a terminal would obey."""
    for secret in secrets:
        text = text.replace(secret, "(secret)")
    text = " ".join(text[: 8 * SHOWN].split())
    text = "".join([sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text])
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _is_page(answer: Answer) -> bool:
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind in ("text/html", "application/xhtml+xml")


def _retry_after(headers: Mapping[str, str], now: int) -> float | None:
    """The seconds that the receiver asks us to wait, or None: never none at all, and somewhat spread, so that those who
    were told the same do not come back in the same moment. A date is compared with the receiver's own, as our clock may
    be wrong; `now` (ns) is for those that have none.
    """
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        if re.fullmatch(r"[0-9]{1,9}", text):
            wait = float(text)
        else:
            there = headers.get("date")
            since = parsedate_to_datetime(there).timestamp() if there else now / 1e9
            wait = parsedate_to_datetime(text).timestamp() - since
    except (ValueError, OverflowError):
        return None
    return min(max(wait, 1.0), LONGEST_WAIT_S) * random.uniform(1.0, 1.1)
