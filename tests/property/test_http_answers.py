"""Whatever a server sends back, an answer or a reason in words comes of it, and a yes only of a whole answer that says so."""

import asyncio
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import DeliveryRefused, DeliveryTooLarge, SinkUnavailable
from gateway.http_client import LARGEST_BODY, Answer, _Connection, _Cut
from sinks._answers import SHOWN, judge
from sinks.http import Options

PIECES = (
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 204 \r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 503 No\r\n",
    b"HTTP/9.9 200 OK\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: -1\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Content-Type: text/html\r\n",
    b"Retry-After: 5\r\n",
    b"\r\n",
    b"abc",
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"FFFFFFFFFFFFFFFFFFFF\r\n",
    b"\x15\x03\x01",
    b"\x00\xff\n",
)
answers = st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=12).map(b"".join)


class FakeTransport(asyncio.Transport):
    def write(self, data): ...

    def abort(self): ...

    def get_write_buffer_size(self):
        return 0


async def exchange(data, cuts):
    connection = _Connection()
    connection.connection_made(FakeTransport())
    task = asyncio.create_task(
        connection.exchange("POST", "/", [("Host", "h"), ("Content-Length", "4")], b"body", lambda n: None)
    )
    await asyncio.sleep(0)
    for piece in (data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)):
        if piece and connection._open:
            connection.data_received(piece)
    connection.eof_received()
    connection.connection_lost(None)
    (result,) = await asyncio.gather(task, return_exceptions=True)
    return result


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@settings(max_examples=500, deadline=None)
@given(data=answers, cuts=st.lists(st.integers(0, 200), max_size=5))
def test_any_bytes_are_an_answer_or_a_reason(runner, data, cuts):
    result = runner.run(exchange(data, sorted(min(cut, len(data)) for cut in cuts)))
    assert isinstance(result, Answer | _Cut), result
    if isinstance(result, Answer):
        assert f" {result.status}".encode() in data
        assert len(result.body) <= LARGEST_BODY
        assert re.match(rb"HTTP/\d\.\d \d\d\d", data)
    else:
        assert str(result).isprintable()
        assert result.silent == (data == b"")


@settings(max_examples=300, deadline=None)
@given(
    status=st.integers(200, 599),
    headers=st.dictionaries(
        st.sampled_from(["content-type", "location", "retry-after", "date", "idempotency-key"]), st.text(max_size=60)
    ),
    body=st.binary(max_size=400) | st.text(max_size=400).map(str.encode),
    echo=st.booleans(),
)
def test_what_is_told_of_any_answer_is_one_short_line(status, headers, body, echo):
    options = Options(url="https://h", echo=echo)
    try:
        found = judge(
            Answer(status, headers, body), "g/e/s/0-9", options, server="https://h", secrets=["k-1"], raw=False, now=0
        )
    except SinkUnavailable as error:
        told = str(error)
        assert error.retry_after_s is None or 1 <= error.retry_after_s <= 4000
    else:
        assert found is None or isinstance(found, DeliveryRefused | DeliveryTooLarge)
        assert (found is None) <= (status in options.accept)
        told = str(found)
    assert told.isprintable()
    assert "k-1" not in told
    assert len(told) < 2 * SHOWN + 250
