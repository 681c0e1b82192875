"""The http sink at a real server: what a request holds, what an answer means, and what is told when none comes."""

import asyncio
import contextlib
import os
import re
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from certificates import Authority
from house import FakeOutlet, delivery, sent, until
from web_receiver import CUT, CUT_IN_ANSWER, HANG, OK, PAGE, REDIRECT, STORED_AND_CUT, Act, WebReceiver

from gateway.errors import DeliveryRefused, DeliveryTooLarge, SinkUnavailable
from gateway.formats import Format
from gateway.quantity import Duration, Secret
from gateway.record import Gap
from gateway.testing import free_port, wait_for_port
from sinks.http import Options, plugin


class Running:
    """A sink with its `run()` under way."""

    def __init__(self, url, **options):
        self.outlet = FakeOutlet()
        self.sink = plugin.build(Options(url=url, **options), self.outlet)

    async def __aenter__(self):
        self._task = asyncio.create_task(self.sink.run())
        await until(lambda: self.outlet.states)
        return self.sink

    async def __aexit__(self, *error):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def send(url, *deliveries, **options):
    """What came of each: a receipt or an error; and the outlet."""

    async def main():
        running = Running(url, **options)
        async with running as sink:
            results = []
            for one in deliveries:
                results += await asyncio.gather(sink.send(one), return_exceptions=True)
            return results, running.outlet

    return asyncio.run(main())


def told(url, what=None, **options):
    """What is said of a delivery that could not be made."""
    (result,), _ = send(url, what or delivery(0, [b"1"]), **options)
    assert isinstance(result, Exception), result
    return f"{type(result).__name__}: {result}"


# -- what a request holds ----------------------------------------------------------------------------------------------


def test_a_batch_is_one_request_that_says_what_it_is():
    with WebReceiver() as receiver:
        what = delivery(10, [b"1", b"22"], body=b"zipped", encoding="zstd")
        results, outlet = send(receiver.url + "/in/{gateway}/{stream}?by={sink}", what, headers={"X-Site": "north"})
        (request,) = receiver.requests
    assert results == [((),)]
    assert (request.method, request.target, request.body) == ("POST", "/in/g1/temps?by=cloud", b"zipped")
    assert request.headers == {
        "host": f"127.0.0.1:{receiver.port}",
        "content-length": "6",
        "x-site": "north",
        "content-type": "application/x-ndjson",
        "content-encoding": "zstd",
        "user-agent": request.headers["user-agent"],
        "idempotency-key": "g1/e1/temps/10-11",
        "tidegate-gateway": "g1",
        "tidegate-stream": "temps",
        "tidegate-first": "10",
        "tidegate-last": "11",
        "tidegate-count": "2",
    }
    assert outlet.states == [("up", f"{receiver.url}, nothing sent yet"), ("up", receiver.url)]
    assert outlet.counts["wire_bytes_total"] > len(b"zipped") + 200


def test_raw_sends_every_record_in_order_with_its_key_and_time():
    with WebReceiver() as receiver:
        values, keys = [b"%d" % n for n in range(50)], [f"plant/{n % 3}/ä b" for n in range(50)]
        what = delivery(7, values, keys=keys, content_type="")
        results, _ = send(receiver.url + "/{key}", what, method="PUT", headers={"Content-Type": "text/plain"})
        requests = receiver.requests
    assert results == [((),)]
    assert [r.body for r in requests] == values
    assert {r.connection for r in requests} == {1}, "the connection is kept"
    fourth = requests[3]
    assert (fourth.method, fourth.target) == ("PUT", "/plant%2F0%2F%C3%A4%20b")
    assert fourth.headers["tidegate-key"] == "plant/0/%C3%A4%20b"
    assert (fourth.headers["tidegate-offset"], fourth.headers["tidegate-time"]) == ("10", "1")
    assert fourth.name == "g1/e1/temps/10-10"
    assert fourth.headers["content-type"] == "text/plain"


def test_logins_come_from_files_that_are_read_for_every_batch(tmp_path):
    def secret(name, text):
        (tmp_path / name).write_text(text + "\n")
        return Secret(str(tmp_path / name))

    async def sink_with(key):
        async with Running(receiver.url, header_files={"X-Api-Key": secret("key", key)}) as sink:
            await sink.send(delivery(2, [b"3"]))

    async def main():
        keys = {"X-Api-Key": secret("key", "k-123")}
        async with Running(receiver.url, token_file=secret("token", "first"), header_files=keys) as sink:
            await sink.send(delivery(0, [b"1"]))
            secret("token", "second")
            await sink.send(delivery(1, [b"2"]))
        async with Running(receiver.url, username="me", password_file=secret("password", "pässword")) as sink:
            await sink.send(delivery(2, [b"3"]))
            (tmp_path / "password").unlink()
            with pytest.raises(
                SinkUnavailable, match="password_file .*: No such file or directory; put the file there"
            ):
                await sink.send(delivery(3, [b"4"]))
            await sink_with("  k-9 ")
            secret("password", "two\nlines")
            with pytest.raises(SinkUnavailable, match="no single line of printable text"):
                await sink.send(delivery(3, [b"4"]))

    with WebReceiver() as receiver:
        asyncio.run(main())
        logins = [request.headers["authorization"] for request in receiver.requests[:3]]
    assert receiver.requests[3].headers["x-api-key"] == "k-9"
    assert logins == ["Bearer first", "Bearer second", "Basic bWU6cMOkc3N3b3Jk"]
    assert receiver.requests[0].headers["x-api-key"] == "k-123"


# -- order, connections ------------------------------------------------------------------------------------------------


def test_with_one_connection_batches_arrive_in_the_order_of_the_calls_and_none_overtakes_one_that_failed():
    script = [OK, OK, Act(503), OK, OK]

    async def main():
        async with Running(receiver.url) as sink:
            calls = [sink.send(delivery(n, [b"%d" % n])) for n in range(6)]
            return await asyncio.gather(*calls, return_exceptions=True)

    with WebReceiver(script) as receiver:
        results = asyncio.run(main())
        assert [isinstance(result, SinkUnavailable) for result in results] == [False, False, True, True, True, True]
        assert [request.body for request in receiver.requests] == [b"0", b"1", b"2"]
        assert receiver.connections == 1
        assert "503" in str(results[5])


def test_more_connections_carry_as_many_requests_at_a_time():
    waiting = [HANG] * 3

    async def main():
        async with Running(receiver.url, connections=3, timeout=Duration(30)) as sink:
            calls = [asyncio.create_task(sink.send(delivery(n, [b"%d" % n]))) for n in range(5)]
            await until(lambda: len(receiver.requests) == 3)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await sink.send(delivery(9, [b"9"]))  # on a new connection: nobody takes the answer to another request

    with WebReceiver(waiting) as receiver:
        asyncio.run(main())
        assert receiver.connections == 4


def test_a_connection_that_the_server_gave_up_costs_no_attempt():
    async def main():
        async with Running(receiver.url) as sink:
            await sink.send(delivery(0, [b"0"]))
            receiver.drop_connections()
            await sink.send(delivery(1, [b"1"]))
            receiver.script = [CUT]  # at the very moment of the next request
            await sink.send(delivery(2, [b"2"]))

    with WebReceiver() as receiver:
        asyncio.run(main())
        assert [r.body for r in receiver.stored.values()] == [b"0", b"1", b"2"]
        assert receiver.connections == 3


def test_where_every_connection_breaks_off_a_request_is_made_twice_and_no_more():
    async def main():
        async with Running(receiver.url, connections=3) as sink:
            calls = [asyncio.create_task(sink.send(delivery(n, [b"%d" % n]))) for n in range(3)]
            await until(lambda: len(receiver.requests) == 3)
            receiver.release()
            await asyncio.gather(*calls)
            receiver.decide = lambda request: CUT
            with pytest.raises(SinkUnavailable, match="it closed the connection before it answered"):
                await sink.send(delivery(9, [b"9"]))

    with WebReceiver(decide=lambda request: Act(then="hold")) as receiver:
        asyncio.run(main())
        assert [r.body for r in receiver.requests[3:]] == [b"9", b"9"]
        assert receiver.connections == 4, "the second time on a new one"


def test_what_was_answered_in_part_is_not_asked_again_in_the_same_attempt():
    async def main():
        async with Running(receiver.url) as sink:
            await sink.send(delivery(0, [b"0"]))
            with pytest.raises(SinkUnavailable, match="in the middle of its answer"):
                await sink.send(delivery(1, [b"1"]))

    for half in (b"HTTP/1.1 100 Continue\r\n\r\n", b"HT"):
        with WebReceiver([OK, Act(raw=half, then="close", store=False)]) as receiver:
            asyncio.run(main())
            assert [r.body for r in receiver.requests] == [b"0", b"1"]


@pytest.mark.parametrize(
    ("answer", "then"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 2", ""),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nstored", "close"),
        (b"HTTP/1.0 200 OK\r\n\r\n", "close"),
        (b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n", ""),
        (b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""),
    ],
)
def test_an_answer_is_never_taken_for_that_of_another_request(answer, then):
    with WebReceiver([Act(raw=answer, then=then, store=True), Act(500)]) as receiver:
        results, _ = send(receiver.url, delivery(0, [b"0"]), delivery(1, [b"1"]), timeout=Duration(5))
    assert results[0] == ((),)
    assert "answers 500" in str(results[1])


def test_a_sink_that_ends_keeps_no_connection():
    async def main():
        async with Running(receiver.url) as sink:
            await sink.send(delivery(0, [b"0"]))
            assert len(receiver._writers) == 1
        await until(lambda: not receiver._writers)

    with WebReceiver() as receiver:
        asyncio.run(main())


# -- what an answer means ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (Act(500, body=b"disk\x1b[2J full"), "SinkUnavailable: @ answers 500 Internal Server Error: disk�[2J full"),
        (Act(400, body=b'{"error": "line 3"}'), 'DeliveryRefused: @ answers 400 Bad Request: {"error": "line 3"}'),
        (Act(422), "DeliveryRefused: @ answers 422 Unprocessable "),
        (Act(413), "DeliveryTooLarge: @ answers 413 "),
        (Act(401), "SinkUnavailable: @ answers 401 Unauthorized; it does not accept our login; check token_file"),
        (Act(403), "SinkUnavailable: @ answers 403 Forbidden; our login may not write there"),
        (
            Act(404, {"Content-Type": "text/html"}, b"<h1>"),
            "SinkUnavailable: @ answers 404 Not Found; it knows no such",
        ),
        (Act(407), "SinkUnavailable: @ answers 407 Proxy Authentication Required; a proxy asks for a login"),
        (Act(418), "SinkUnavailable: @ answers 418 I'm a Teapot"),
        (Act(511), "SinkUnavailable: @ answers 511 Network Authentication Required; the network asks for a login"),
        (REDIRECT, "SinkUnavailable: @ answers 302 Found, to http://portal.example/login: a redirect is not followed"),
        (PAGE, "SinkUnavailable: @ answers 200 OK with a web page, as the login page of a network does"),
        (Act(207, body=b"half"), "SinkUnavailable: @ answers 207 Multi-Status: half; add it to accept if"),
        (CUT, "SinkUnavailable: @: it closed the connection before it answered"),
        (CUT_IN_ANSWER, "SinkUnavailable: @: it closed the connection in the middle of its answer"),
        (Act(raw=b"SSH-2.0-OpenSSH\r\n", then="hang"), "SinkUnavailable: @: what answers there speaks no HTTP"),
        (
            Act(raw=b"HTTP/1.1 200 " + b"x" * 99_999, then="hang"),
            "SinkUnavailable: @: its answer breaks the rules of HTTP: ",
        ),
        (HANG, "SinkUnavailable: @: no answer within 1 s; see timeout"),
        (Act(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", then="hang"), "@: no answer within 1 s"),
    ],
)
def test_what_is_no_yes_is_told_with_its_reason_and_what_to_try(act, words):
    with WebReceiver([act]) as receiver:
        found = told(receiver.url, timeout=Duration(1 if "no answer within" in words else 30))
    assert words.replace("@", receiver.url) in found


def test_which_answer_is_a_yes_can_be_said(tmp_path):
    name = b"g1/e1/temps/0-0"
    with WebReceiver([Act(202), Act(207), Act(200, body=b"ok"), Act(200, body=b'"errors":true')]) as receiver:
        assert send(receiver.url, delivery(0, [b"1"]), accept=(202,))[0] == [((),)]
        assert send(receiver.url, delivery(0, [b"1"]), accept=(207,))[0] == [((),)]
        assert "answers 200 OK: ok; add it to accept" in told(receiver.url, accept=(202,))
        assert 'answers 200 OK: "errors":true, without the text' in told(receiver.url, expect='"errors":false')
    page = {"Content-Type": "text/html"}
    yes = [Act(200, {"Idempotency-Key": name.decode()}), Act(200, page, b"stored " + name), Act(200, page, b"done")]
    with WebReceiver([*yes, Act(200), Act(200, body=name + b"9")]) as receiver:
        assert send(receiver.url, delivery(0, [b"1"]), delivery(0, [b"1"]), echo=True)[0] == [((),)] * 2
        assert send(receiver.url, delivery(0, [b"1"]), expect="done")[0] == [((),)]
        for _ in range(2):
            assert "without the name of the batch" in told(receiver.url, echo=True)


def test_a_wait_that_the_receiver_asks_for_is_kept_to_within_bounds():
    date = {"Date": "Tue, 24 Nov 2026 10:00:00 GMT"}
    for headers, low, high in (
        ({"Retry-After": "7"}, 7, 7.7),
        ({"Retry-After": "0"}, 1, 1.1),
        ({"Retry-After": "999999"}, 3600, 3960),
        ({"Retry-After": "Tue, 24 Nov 2026 10:00:30 GMT", **date}, 30, 33),
        ({"Retry-After": "Mon, 23 Nov 2026 10:00:30 GMT", **date}, 1, 1.1),
    ):
        with WebReceiver([Act(429, headers)]) as receiver:
            (failure,), _ = send(receiver.url, delivery(0, [b"1"]))
        assert low <= failure.retry_after_s <= high, headers
    for text in ("soon", "-1", "", "9" * 5000, "Tue, 99 Nov 2026"):
        with WebReceiver([Act(503, {"Retry-After": text})]) as receiver:
            (failure,), _ = send(receiver.url, delivery(0, [b"1"]))
        assert failure.retry_after_s is None, text


def test_of_a_long_answer_little_is_read_and_less_is_shown():
    endless = b"HTTP/1.1 500 No\r\n\r\n" + b"x" * 200_000
    with WebReceiver([Act(raw=endless, then="hang")]) as receiver:
        found = told(receiver.url, timeout=Duration(20))
    assert len(found) < 300
    assert "xxx…" in found


def test_a_secret_that_the_receiver_says_back_is_not_shown(tmp_path):
    (tmp_path / "s").write_text("hush-hush")
    secret = Secret(str(tmp_path / "s"))
    for options in (
        {"token_file": secret},
        {"header_files": {"X-Key": secret}},
        {"username": "me", "password_file": secret},
    ):
        body = b"you said Bearer hush-hush, bWU6aHVzaC1odXNo, hush-hush"
        with WebReceiver([Act(500, body=body), Act(302, {"Location": "/?t=hush-hush"})]) as receiver:
            shown = told(receiver.url, **options) + told(receiver.url, **options)
        assert "hush" not in shown
        assert options.keys() != {"username", "password_file"} or "bWU6" not in shown


# -- records one by one ------------------------------------------------------------------------------------------------


def test_records_that_the_receiver_will_never_take_are_rejected_and_the_others_delivered():
    def decide(request):
        return Act(422, body=b"odd") if int(request.headers["tidegate-offset"]) % 2 else OK

    with WebReceiver(decide=decide) as receiver:
        keys = ["k", "k", "..", "x" * 5000, "k", "k"]
        what = delivery(100, [b"%d" % n for n in range(6)], keys=keys, content_type="")
        (receipt,), _ = send(receiver.url + "/in/{key}", what)
    reasons = {one.offset: one.reason for one in receipt.rejected}
    assert set(reasons) == {101, 102, 103, 105}
    assert reasons[101].endswith(": odd")
    assert "would lead to another path" in reasons[102]
    assert "its key has 5000 bytes" in reasons[103]
    assert sorted(r.body for r in receiver.stored.values()) == [b"0", b"4"]


def test_an_attempt_at_single_records_goes_on_where_it_ended():
    what = delivery(0, [b"%d" % n for n in range(10)], content_type="")

    async def main():
        async with Running(receiver.url) as sink:
            return await sent(sink, what)

    with WebReceiver([OK, OK, Act(503), OK, Act(400), CUT_IN_ANSWER, OK, STORED_AND_CUT]) as receiver:
        receipt = asyncio.run(main())
        bodies = [r.body for r in receiver.requests]
    assert [one.offset for one in receipt.rejected] == [3]
    assert bodies == [b"0", b"1", b"2", b"2", b"3", b"4", b"4", b"5", b"5", b"6", b"7", b"8", b"9"]
    assert not receiver.conflicts
    assert receiver.repeats == 1


def test_a_receiver_that_refuses_every_record_is_not_asked_about_all_of_them():
    with WebReceiver(decide=lambda request: Act(400, body=b"no JSON")) as receiver:
        what = delivery(0, [b"%d" % n for n in range(200)], content_type="")
        (result, one), _ = send(receiver.url, what, delivery(0, [b"0"], content_type=""))
        assert len(receiver.requests) < 20
    assert isinstance(result, DeliveryRefused)
    assert isinstance(one, DeliveryRefused)


def test_what_has_no_record_needs_no_request_with_raw_and_one_without():
    with WebReceiver() as receiver:
        gap = b'{"gap":[0,9],"cause":"evicted"}\n'
        results, _ = send(receiver.url, delivery(0, [], content_type=""), delivery(0, [], body=gap))
        assert results == [((),)] * 2
        assert [request.body for request in receiver.requests] == [gap]


# -- on the way --------------------------------------------------------------------------------------------------------


def test_an_ipv6_receiver_is_reached():
    with WebReceiver(host="::1") as receiver:
        assert send(receiver.url, delivery(0, [b"1"]))[0] == [((),)]
        assert receiver.requests[0].headers["host"] == f"[::1]:{receiver.port}"


def test_a_receiver_that_cannot_be_reached_is_told_why():
    port = free_port()
    assert told(f"http://127.0.0.1:{port}") == f"SinkUnavailable: http://127.0.0.1:{port}: Connection refused"
    assert "check the name in the url, and the network" in told("http://no-such-host.invalid")
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:  # nobody accepts: of many, the last ones wait
        crowd = [socket.socket() for _ in range(5)]
        for one in crowd:
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        assert "no connection within 1 s; check the address" in told(url, connect_timeout=Duration(1))
        for one in crowd:
            one.close()


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("papers"))


def server_tls(papers, pair, asks=False):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(papers.ca))
    context.load_cert_chain(*map(str, pair))
    context.verify_mode = ssl.CERT_REQUIRED if asks else ssl.CERT_NONE
    return context


def test_both_sides_show_certificates_and_what_was_renewed_is_used(papers, tmp_path):
    ours = papers.issue("gw-1", file="gw-1-http")
    files = {"cert_file": str(ours[0]), "key_file": str(ours[1]), "ca_file": str(papers.ca)}
    with WebReceiver(tls=server_tls(papers, papers.issue("localhost", file="web"), asks=True)) as receiver:
        url = f"https://localhost:{receiver.port}"
        assert send(url, delivery(0, [b"1"]), **files)[0] == [((),)]
        mine = tmp_path / "mine.pem"
        mine.write_text("nonsense")

        async def renewed():
            async with Running(url, **{**files, "cert_file": str(mine)}) as sink:
                with pytest.raises(SinkUnavailable, match=f"cert_file {mine} holds no certificate"):
                    await sink.send(delivery(1, [b"2"]))
                mine.write_bytes(ours[0].read_bytes())
                return await sink.send(delivery(1, [b"2"]))

        assert asyncio.run(renewed()) == ((),)


def test_a_certificate_that_the_receiver_refuses_is_told_with_its_reason(papers, tmp_path):
    past = ("20200101000000Z", "20210101000000Z")
    expired = papers.issue("gw-2", file="gw-2-http", valid=past)
    context = server_tls(papers, papers.issue("localhost", file="web-4"), asks=True)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse():  # blocking: asyncio would close the connection without saying why
            for _ in range(2):
                client = context.wrap_socket(server.accept()[0], server_side=True, do_handshake_on_connect=False)
                with client, contextlib.suppress(OSError):
                    with contextlib.suppress(ssl.SSLError):
                        client.do_handshake()
                    client.settimeout(5)
                    while os.read(client.fileno(), 65536):
                        pass

        thread = threading.Thread(target=refuse)
        thread.start()
        url = f"https://localhost:{server.getsockname()[1]}"
        asks = told(url, ca_file=str(papers.ca), timeout=Duration(5))
        old = told(
            url, ca_file=str(papers.ca), cert_file=str(expired[0]), key_file=str(expired[1]), timeout=Duration(5)
        )
        thread.join(20)
    assert asks.endswith("TLS: the receiver asks for a certificate of ours; write cert_file and key_file")
    assert "TLS: the receiver says that our certificate has expired" in old


def test_a_receiver_that_is_not_trusted_is_told_nothing(papers, tmp_path):
    other = Authority(tmp_path / "other", "another ca")
    with WebReceiver(
        tls=server_tls(papers, papers.issue("elsewhere", file="web-2", hosts="DNS:else.where"))
    ) as receiver:
        url = f"https://localhost:{receiver.port}"
        assert "a name that its certificate holds" in told(url, ca_file=str(papers.ca))
        assert "ca_file must hold the certificate of the CA" in told(url, ca_file=str(other.ca))
        assert receiver.requests == []


@pytest.mark.parametrize(
    ("answer", "scheme", "words"),
    [
        (b"\x15\x03\x01\x00\x02\x02\x16", "http", "TLS is spoken on this port; write https://"),
        (b"", "http", "it closed the connection before it answered"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "https", "no TLS is spoken on this port; write http://"),
        (b"", "https", "it ended the connection at once; write http:// if no TLS is spoken there"),
    ],
)
def test_the_wrong_kind_of_port_is_told_apart(answer, scheme, words):
    async def main():
        async def serve(reader, writer):
            await reader.read(1)
            writer.write(answer)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with Running(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}") as sink:
            with pytest.raises(SinkUnavailable, match=words):
                await sink.send(delivery(0, [b"1"]))
        server.close()

    asyncio.run(main())


class Proxy:
    """A forward proxy: CONNECT, or the whole url in the request line; `refuse`: the status it answers with instead."""

    def __init__(self, refuse=0):
        self.refuse, self.lines = refuse, []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error):
        self._server.close()

    async def _serve(self, reader, writer):
        try:
            await self._pass_on(reader, writer)
        finally:
            writer.close()

    async def _pass_on(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        line = head.split(b"\r\n")[0].decode()
        self.lines.append(line)
        if self.refuse:
            writer.write(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % self.refuse)
            return
        method, target, _ = line.split()
        tunnel = method == "CONNECT"
        host, port = re.search(r"([\w.]+):(\d+)", target.removeprefix("http://")).groups()
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        if tunnel:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            far_writer.write(head)

        async def pump(source, target):
            while data := await source.read(65536):
                target.write(data)
            target.close()

        try:
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)
        finally:
            far_writer.close()


def test_a_proxy_is_gone_through_where_one_is_named_and_only_there(papers, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")

    async def main():
        async with Proxy() as proxy:
            for url, options in (
                (plain.url + "/p", {}),
                (f"https://localhost:{secure.port}/p", {"ca_file": str(papers.ca)}),
            ):
                async with Running(url, proxy=proxy.url, **options) as sink:
                    for n in range(2):
                        await sink.send(delivery(n, [b"%d" % n]))
            assert proxy.lines == [f"POST {plain.url}/p HTTP/1.1", f"CONNECT localhost:{secure.port} HTTP/1.1"]
        async with Running(plain.url) as sink:
            await sink.send(delivery(2, [b"2"]))
        stranger = f"https://127.0.0.1:{secure.port}"
        async with Proxy() as proxy, Running(stranger, proxy=proxy.url) as sink:
            with pytest.raises(SinkUnavailable, match=f"{stranger}, through the proxy {proxy.url}: its certificate"):
                await sink.send(delivery(0, [b"0"]))
        for status, words in (
            (407, "asks for a login, which we cannot give"),
            (403, "does not let us through to localhost"),
        ):
            async with Proxy(status) as proxy, Running("https://localhost:9", proxy=proxy.url) as sink:
                with pytest.raises(SinkUnavailable, match=words):
                    await sink.send(delivery(0, [b"0"]))

    tls = server_tls(papers, papers.issue("localhost", file="web-3"))
    with WebReceiver() as plain, WebReceiver(tls=tls) as secure:
        asyncio.run(main())
        assert len(plain.stored) == 3
        assert [r.target for r in secure.requests] == ["/p", "/p"]


def test_a_batch_that_is_too_large_or_refused_is_the_houses_to_cut():
    with WebReceiver([Act(413), Act(400)]) as receiver:
        results, _ = send(receiver.url, delivery(0, [b"1", b"2"]), delivery(0, [b"1", b"2"]))
    assert [type(result) for result in results] == [DeliveryTooLarge, DeliveryRefused]


def test_the_receiver_of_the_manual_stores_each_batch_once_also_of_two_gateways_with_four_connections_each(tmp_path):
    manual = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
    (tmp_path / "receiver.py").write_text(re.search(r"```python\n(.*?)```", manual, re.DOTALL)[1])
    port = free_port()

    def batch(first):
        values = [b'{"v":%d}' % n for n in range(first, first + 100)]
        what, gaps = delivery(first, values), [Gap("s", first + 100, first + 120, "evicted")]
        body = Format.parse("ndjson+gzip").encode(what.batches, gaps, gateway="g", epoch="e")
        return delivery(first, values, body=body, encoding="gzip")

    async def main():
        url = f"http://127.0.0.1:{port}/in"
        async with contextlib.AsyncExitStack() as stack:
            sinks = [await stack.enter_async_context(Running(url, echo=True, connections=4)) for _ in range(2)]
            for _ in range(2):  # each connection is kept, and what comes again is not stored again
                sends = [sink.send(batch(1000 * n)) for n in range(4) for sink in sinks]
                assert await asyncio.gather(*sends) == [((),)] * 8

    process = subprocess.Popen([sys.executable, "receiver.py", str(port)], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        asyncio.run(main())
    finally:
        process.kill()
        process.wait(10)
    with contextlib.closing(sqlite3.connect(tmp_path / "readings.db")) as db:
        assert db.execute("SELECT count(*), count(DISTINCT value) FROM readings").fetchone() == (400, 400)
