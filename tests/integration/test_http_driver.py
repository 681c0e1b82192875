"""The http driver at real sockets: what is recorded, when it is answered, who is refused, and what no client can do."""

import asyncio
import contextlib
import gzip
import json
import random
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from typing import NamedTuple

import pytest
import zstandard
from certificates import Authority
from house import House, until

from drivers import _http_door as door
from drivers import http as driver
from drivers.http import Options, Path, plugin
from gateway.quantity import Duration, LocalPath, Secret, Size
from gateway.testing import free_port
from gateway.web import token as token_

JSON, LINES = "application/json", "application/x-ndjson"
TOKEN = "q7Vd8sXk2LmN4pRt"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def options(**more):
    more = {"listen": f"127.0.0.1:{free_port()}", "stream": "s", "answer_within": Duration(0.02), **more}
    return Options(**more)


class Answer(NamedTuple):
    status: int
    headers: dict
    said: dict


def request(path="/", body=b"", headers=None, method="POST"):
    lines = [f"{method} {path} HTTP/1.1", "Host: gateway"]
    given = headers or {}
    if not {"content-length", "transfer-encoding"} & {name.lower() for name in given} and (body or method == "POST"):
        given = {**given, "Content-Length": str(len(body))}
    lines += [f"{name}: {value}" for name, value in given.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class Client:
    """One connection; what it sends is its own affair."""

    def __init__(self, opts, **tls):
        self._address, self._tls = opts.listen.split(":"), tls

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection(*self._address, **self._tls)
        return self

    async def __aexit__(self, *error):
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self):
        async with asyncio.timeout(20):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            lines = [line.split(": ", 1) for line in head[1:] if line]
            headers = {name.lower(): value for name, value in lines}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        said = json.loads(body) if "json" in headers.get("content-type", "") else {"text": body.decode()}
        return Answer(int(head[0].split()[1]), headers, said)

    async def post(self, path="/", body=b"", headers=None, method="POST"):
        await self.send(request(path, body, headers, method))
        return await self.answer()

    async def is_closed(self, seconds=20.0):
        async with asyncio.timeout(seconds):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True


async def post(opts, path="/", body=b"", headers=None, method="POST", **tls):
    async with Client(opts, **tls) as client:
        return await client.post(path, body, headers, method)


@contextlib.asynccontextmanager
async def serving(opts, **more):
    """The driver, listening."""
    async with House(plugin, opts, **more) as house:
        await until(lambda: house.inlet.states)
        yield house


def run(work):
    asyncio.run(work())


# -- what is recorded --------------------------------------------------------------------------------------------------


def test_readings_go_where_the_path_says_under_the_key_that_the_request_gives():
    opts = options(paths=("/r", "/r/{key}", Path(path="/doors/{key}", stream="doors")), key="none", key_field="id")

    async def work():
        async with serving(opts) as house, Client(opts) as client:
            for path, body, headers in (
                ("/r", b'{"id":"a","v":1.50}', {"Content-Type": JSON}),
                ("/r", b'[{"id":7}, {"v":2}]', {"Content-Type": "Application/JSON; charset=utf-8"}),
                ("/r?x=1&key=q%2Fk", b'{"id":"a"}\n\n{"id":"b"}\n', {"Content-Type": LINES}),
                ("/r/site/%C3%A9", b'{"id":"a"}', {"Content-Type": JSON}),
                ("/r", b"\xff\x00", {"Tidegate-Key": "site/%C3%A8"}),
                ("/doors/front", b"open", {}),
                ("/r", b'{"id":"a"}', {}),
            ):
                answer = await client.post(path, body, headers)
                assert answer.status == 200, answer
            assert house.inlet.committed == [
                ("s", "a", b'{"id":"a","v":1.50}', 0), ("s", "7", b'{"id":7}', 0), ("s", "none", b'{"v":2}', 0),
                ("s", "q/k", b'{"id":"a"}', 0), ("s", "q/k", b'{"id":"b"}', 0), ("s", "site/é", b'{"id":"a"}', 0),
                ("s", "site/è", b"\xff\x00", 0), ("doors", "front", b"open", 0), ("s", "none", b'{"id":"a"}', 0),
            ]  # fmt: skip

    run(work)


def test_without_a_key_the_drivers_name_is_the_key():
    async def work():
        opts = options()
        async with serving(opts) as house:
            assert (await post(opts, body=b"x")).said == {"recorded": 1}
            assert house.inlet.committed == [("s", "plant", b"x", 0)]

    run(work)


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "identity"])
def test_a_packed_body_is_unpacked(encoding):
    pack = {"gzip": gzip.compress, "zstd": zstandard.compress, "identity": bytes}[encoding]

    async def work():
        opts = options()
        async with serving(opts) as house:
            headers = {"Content-Encoding": encoding, "Content-Type": LINES}
            assert (await post(opts, "/", pack(b"1\n2\n3"), headers)).said == {"recorded": 3}
            assert house.inlet.values == [b"1", b"2", b"3"]

    run(work)


def test_a_chunked_body_is_taken_however_it_is_cut():
    async def work():
        opts = options()
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (b'{"a"', b":", b"1}")) + b"0\r\n\r\n"
        async with serving(opts) as house, Client(opts) as client:
            for at in range(0, len(data := request("/", body, {"Transfer-Encoding": "chunked"})), 7):
                await client.send(data[at : at + 7])
                await asyncio.sleep(0)
            assert (await client.answer()).said == {"recorded": 1}
            assert house.inlet.values == [b'{"a":1}']

    run(work)


def test_who_asks_to_go_on_is_told_to():
    async def work():
        opts = options()
        async with serving(opts), Client(opts) as client:
            await client.send(request("/", headers={"Content-Length": "3", "Expect": "100-continue"}))
            assert (await client.answer()).status == 100
            await client.send(b"abc")
            assert (await client.answer()).status == 200
            await client.send(request("/", headers={"Content-Length": "3000000", "Expect": "100-continue"}))
            assert (await client.answer()).status == 413

    run(work)


def test_requests_sent_ahead_on_one_connection_are_answered_in_their_order():
    async def work():
        opts = options(answer_within=Duration(0))
        async with serving(opts) as house, Client(opts) as client:
            await client.send(b"".join(request("/", b"x" * n, {"Content-Type": "a/b"}) for n in range(1, 101)))
            for _ in range(100):
                assert (await client.answer()).status == 200
            assert house.inlet.values == [b"x" * n for n in range(1, 101)]

    run(work)


def test_what_comes_together_is_one_batch_and_one_commit():
    async def work():
        opts = options(answer_within=Duration(0.3))
        async with serving(opts, turn=60, commit=60) as house:
            await post(opts, body=b"alone")
            await asyncio.gather(*[post(opts, body=b"%d" % n) for n in range(50)])
            assert sorted(house.inlet.values[1:], key=int) == [b"%d" % n for n in range(50)]
            assert house.inlet.calls <= 4
            assert house.commits <= 4

    run(work)


# -- when it is answered -----------------------------------------------------------------------------------------------


def test_nothing_is_answered_before_the_commit():
    async def work():
        opts = options()
        async with serving(opts, commit=None) as house, Client(opts) as client:
            await client.send(request(body=b"x"))
            await until(lambda: house.inlet.hurries)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await client.answer()
            house.inlet.commit()

        async with serving(opts, commit=None) as house, Client(opts) as client:
            await client.send(request(body=b"x"))
            await until(lambda: house.inlet.hurries)
            house.inlet.commit()
            assert (await client.answer()).status == 200

    run(work)


def test_while_the_driver_is_paused_requests_wait_and_are_then_told_to_come_back(monkeypatch):
    monkeypatch.setattr(driver, "WAIT_S", 0.5)

    async def work():
        opts = options()
        async with serving(opts) as house, Client(opts) as early, Client(opts) as late:
            house.driver.pause()
            await early.send(request(body=b"too long"))
            answer = await early.answer()
            assert (answer.status, int(answer.headers["retry-after"]) > 0) == (503, True)
            assert "nothing of this is recorded" in answer.said["error"]
            monkeypatch.setattr(driver, "WAIT_S", 20.0)
            await late.send(request(body=b"in time"))
            await asyncio.sleep(0.1)
            assert house.inlet.rows == []
            house.driver.resume()
            assert (await late.answer()).status == 200
            assert (await early.post(body=b"again")).status == 200
            assert house.inlet.values == [b"in time", b"again"]

    run(work)


def test_a_commit_that_does_not_come_is_told_and_the_same_request_again_is_recorded_once(monkeypatch):
    monkeypatch.setattr(driver, "ANSWER_S", 0.3)
    monkeypatch.setattr(driver, "PATIENCE_S", 0.3)

    async def work():
        opts = options()
        async with serving(opts, commit=None) as house, Client(opts) as client:
            first = await client.post(body=b"x", headers={"Idempotency-Key": "1"})
            assert (first.status, first.headers["retry-after"]) == (503, "5")
            for key in ("1", "2"):  # the log is stuck: what comes now is not even taken
                assert (await client.post(body=b"x", headers={"Idempotency-Key": key})).status == 503
            house.inlet.commit()
            again = await client.post(body=b"x", headers={"Idempotency-Key": "1"})
            assert (again.status, again.said) == (200, {"recorded": 1, "repeated": True})
            assert house.inlet.values == [b"x"]
            assert house.inlet.counts == {"refused_total": 3, "redelivered_total": 2}

    run(work)


def test_a_client_that_repeats_while_the_first_one_is_under_way_gets_the_same_answer():
    async def work():
        opts = options()
        headers = {"Idempotency-Key": '"a b"', "Content-Type": LINES}
        async with serving(opts, commit=None) as house:
            both = [asyncio.create_task(post(opts, body=b"1\n2", headers=headers)) for _ in range(5)]
            await until(lambda: house.inlet.hurries and house.inlet.counts["redelivered_total"] == 8)
            house.inlet.commit()
            answers = [await one for one in both]
            assert {answer.status for answer in answers} == {200}
            assert sorted(len(answer.said) for answer in answers) == [1, 2, 2, 2, 2]
            assert house.inlet.values == [b"1", b"2"]

    run(work)


def test_a_repeat_may_be_packed_in_another_way_but_must_say_the_same():
    async def work():
        opts = options(paths=("/a", "/b"))
        async with serving(opts) as house, Client(opts) as client:
            key = {"Idempotency-Key": "1"}
            assert (await client.post("/a", b"12", key)).status == 200
            for level in (1, 9):
                headers = {**key, "Content-Encoding": "gzip"}
                assert (await client.post("/a", gzip.compress(b"12", level), headers)).said["repeated"]
            for path, body, more in (("/b", b"12", {}), ("/a", b"13", {}), ("/a?key=k", b"12", {}), ("/a", b"12", {"Content-Type": JSON})):  # fmt: skip
                assert (await client.post(path, body, {**key, **more})).status == 422
            assert house.inlet.values == [b"12"]

    run(work)


def test_a_driver_that_is_started_again_waits_for_nothing_that_was_before(monkeypatch):
    monkeypatch.setattr(driver, "PATIENCE_S", 0.2)

    async def work():
        opts = options()
        async with serving(opts, commit=None) as house:
            asked = asyncio.create_task(post(opts, body=b"x", headers={"Idempotency-Key": "1"}))
            await until(lambda: house.inlet.hurries)
            house._tasks[0].cancel()
            assert (await asked).status == 503
            lost, house.inlet.receipts = house.inlet.receipts, []
            await asyncio.sleep(0.3)
            again = asyncio.create_task(house.driver.run())
            await until(lambda: len(house.inlet.states) == 2)
            asked = asyncio.create_task(post(opts, body=b"x", headers={"Idempotency-Key": "1"}))
            await until(lambda: house.inlet.receipts)
            house.driver.acknowledge(lost)
            house.inlet.commit()
            assert (await asked).said == {"recorded": 1}
            assert house.driver._owed_bytes == 0
            again.cancel()
            await asyncio.gather(again, return_exceptions=True)

    run(work)


def test_every_record_of_a_load_has_a_receipt_whatever_its_stream():
    opts = options(paths=("/s", Path(path="/t", stream="t")), answer_within=Duration(5))

    async def work():
        async with serving(opts, turn=60, commit=None) as house:
            await post_and_commit(house, opts)
            both = [asyncio.create_task(post(opts, path, b"x")) for path in ("/s", "/t")]
            await until(lambda: len(house.driver._gathered) == 2)
            house.driver.turn()
            assert len(house.inlet.receipts) == 2
            house.inlet.commit()
            assert [(await one).status for one in both] == [200, 200]
            assert house.driver._owed_bytes == 0

    run(work)


async def post_and_commit(house, opts):
    """One that is alone is answered at once; for those after it the driver waits."""
    asked = asyncio.create_task(post(opts, "/s", b"first"))
    await until(lambda: house.inlet.hurries)
    house.inlet.commit()
    assert (await asked).status == 200


def test_what_was_not_given_to_the_log_yet_is_answered_when_the_driver_ends():
    opts = options(paths=("/s",), answer_within=Duration(5))

    async def work():
        async with serving(opts, turn=60, commit=None) as house:
            await post_and_commit(house, opts)
            asked = asyncio.create_task(post(opts, "/s", b"x"))
            await until(lambda: house.driver._gathered)
            house._tasks[0].cancel()
            answer = await asked
            assert (answer.status, house.inlet.values) == (503, [b"first"])

    run(work)


def test_keys_are_remembered_in_a_bounded_number(monkeypatch):
    monkeypatch.setattr(driver, "NAMES", 10)

    async def work():
        opts = options(answer_within=Duration(0))
        async with serving(opts) as house, Client(opts) as client:
            for n in range(12):
                assert (await client.post(body=b"x", headers={"Idempotency-Key": str(n)})).status == 200
            assert (await client.post(body=b"x", headers={"Idempotency-Key": "11"})).said == {"recorded": 1, "repeated": True}  # fmt: skip
            assert (await client.post(body=b"x", headers={"Idempotency-Key": "0"})).said == {"recorded": 1}
            assert len(house.driver._names) == 10

    run(work)


def test_a_stop_answers_what_was_read_and_turns_the_rest_away():
    async def work():
        opts = options(answer_within=Duration(5))
        async with House(plugin, opts, turn=60, commit=None) as house:
            await until(lambda: house.inlet.states)
            async with Client(opts) as read, Client(opts) as waits, Client(opts) as rests:
                await rests.send(request(body=b"0"))
                await until(lambda: house.inlet.hurries)
                house.inlet.commit()
                assert (await rests.answer()).status == 200
                await read.send(request(body=b"1"))
                await until(lambda: house.driver._gathered)
                house.driver.pause()  # as the gateway stops: no more is read, then a commit, then the end
                await waits.send(request(body=b"2"))
                await asyncio.sleep(0.05)
                house.inlet.commit()
                house._tasks[0].cancel()
                assert (await read.answer()).status == 200
                answer = await waits.answer()
                assert (answer.status, "stops" in answer.said["error"]) == (503, True)
                assert await rests.is_closed()
                assert house.inlet.values == [b"0", b"1"]

    run(work)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status,path,body,headers,method,said",
    [
        (404, "/other", b"x", {}, "POST", "readings go to /, /k/{key}"),
        (404, "/k/", b"x", {}, "POST", "readings go to"),
        (404, "http://gateway/", b"x", {}, "POST", "readings go to"),
        (405, "/", b"", {}, "GET", "use POST"),
        (405, "/", b"x", {}, "PUT", "use POST"),
        (405, "/", b"", {}, "OPTIONS", "use POST"),
        (400, "/", b'{"v":', {"Content-Type": JSON}, "POST", "JSON ends too early"),
        (400, "/", b"1\n{", {"Content-Type": LINES}, "POST", "line 2"),
        (400, "/", b"", {}, "POST", "nothing in the body"),
        (400, "/k/%ff", b"x", {}, "POST", "no UTF-8"),
        (400, "/?key=%ff", b"x", {}, "POST", "no UTF-8"),
        (400, "/k/%00", b"x", {}, "POST", "NUL"),
        (400, "/k/" + "x" * 600, b"x", {}, "POST", "512 bytes"),
        (400, "/", b"x", {"Tidegate-Key": "\xff"}, "POST", "no UTF-8"),
        (400, "/", b"x", {"Idempotency-Key": "x" * 300}, "POST", "255 characters"),
        (400, "/", b"x", {"Content-Encoding": "gzip"}, "POST", "gzip"),
        (400, "/", zstandard.compress(b"x" * 99)[:-3], {"Content-Encoding": "zstd"}, "POST", "zstd"),
        (415, "/", b"x", {"Content-Encoding": "br"}, "POST", "gzip or zstd"),
        (415, "/", b"x", {"Content-Encoding": "gzip, gzip"}, "POST", "gzip or zstd"),
        (413, "/", b"x" * 2000, {}, "POST", "at most 1024 bytes"),
        (413, "/", b"", {"Content-Length": "99999999999999999999"}, "POST", "at most 1024 bytes"),
        (413, "/", b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n", {"Transfer-Encoding": "chunked"}, "POST", "at most 1024"),
        (413, "/", gzip.compress(bytes(5 * 10**5)), {"Content-Encoding": "gzip"}, "POST", "unpacks to more than 1024"),
        (413, "/", zstandard.compress(bytes(10**8))[:1000], {"Content-Encoding": "zstd"}, "POST", "unpacks to more"),
        (413, "/", b"[" + b"1," * 30 + b"1]", {"Content-Type": JSON}, "POST", "more than 20 records"),
        (413, "/", b"1\n" * 30, {"Content-Type": LINES}, "POST", "more than 20 records"),
    ],
)  # fmt: skip
def test_what_is_refused_is_told_why_and_recorded_nowhere(status, path, body, headers, method, said):
    async def work():
        opts = options(paths=("/", "/k/{key}"), max_body=Size(1024), max_records=20)
        async with serving(opts) as house:
            answer = await post(opts, path, body, headers, method)
            assert (answer.status, said in answer.said["error"]) == (status, True), answer
            assert (await post(opts, body=b"fine")).status == 200
            assert house.inlet.values == [b"fine"]
            assert [reason.split(":")[0] for reason, _ in house.inlet.bad] == [str(status)]
            assert all(len(sample) < 300 and sample.isascii() for _, sample in house.inlet.bad)
            if status == 405:
                assert answer.headers["allow"] == "POST"

    run(work)


def test_an_answer_reaches_who_still_sends_and_an_endless_body_ends():
    async def work():
        opts = options(max_body=Size(1024))
        async with serving(opts), Client(opts) as client:
            await client.send(request("/", headers={"Transfer-Encoding": "chunked"}))
            sent = 0

            async def endless():
                nonlocal sent
                with contextlib.suppress(ConnectionError):
                    while True:
                        await client.send(b"10000\r\n" + bytes(65536) + b"\r\n")
                        sent += 65536

            sending = asyncio.create_task(endless())
            assert (await client.answer()).status == 413
            await asyncio.wait_for(sending, 20)
            assert sent < 32 << 20

    run(work)


@pytest.mark.parametrize(
    "headers,status",
    [
        ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403), ({"Origin": "http://gateway"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403), ({"Sec-Fetch-Site": "same-origin"}, 403),
        ({"Sec-Fetch-Site": "none"}, 200), ({}, 200),
        ({"Origin": "https://panel.example", "Sec-Fetch-Site": "cross-site"}, 200),
        ({"Origin": "https://panel.example.evil.example"}, 403), ({"Origin": "http://panel.example"}, 403),
    ],
)  # fmt: skip
def test_no_web_page_can_post_but_those_that_are_named(headers, status):
    async def work():
        opts = options(origins=("https://panel.example",))
        async with serving(opts) as house:
            answer = await post(opts, body=b"x", headers={"Content-Type": "text/plain", **headers})
            assert (answer.status, len(house.inlet.rows)) == (status, status == 200)
            allowed = answer.headers.get("access-control-allow-origin")
            assert allowed == (headers.get("Origin") if status == 200 else None)

    run(work)


def test_a_browser_that_asks_for_a_page_that_may_is_told_what_it_may_send():
    async def work():
        opts = options(origins=("https://panel.example",))
        async with serving(opts):
            headers = {"Origin": "https://panel.example", "Access-Control-Request-Method": "POST"}
            answer = await post(opts, headers=headers, method="OPTIONS")
            assert (answer.status, answer.headers["access-control-allow-methods"]) == (204, "POST")
            assert "idempotency-key" in answer.headers["access-control-allow-headers"]
            answer = await post(opts, headers={**headers, "Origin": "https://evil.example"}, method="OPTIONS")
            assert (answer.status, "access-control-allow-origin" in answer.headers) == (403, False)

    run(work)


@pytest.fixture
def token_file(tmp_path):
    (tmp_path / "token").write_text(TOKEN + "\n")
    return tmp_path / "token"


def test_only_who_shows_the_token_may_post(token_file):
    async def work():
        opts = options(token_file=Secret(str(token_file)))
        async with serving(opts) as house:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
                for path in ("/", "/other"):
                    answer = await post(opts, path, b"x", headers)
                    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert house.inlet.rows == []
            assert (await post(opts, body=b"x", headers=BEARER)).status == 200
            token_file.write_text("another-token-of-enough-length")
            assert (await post(opts, body=b"x", headers=BEARER)).status == 401
            assert (await post(opts, body=b"x", headers={"Authorization": "bearer another-token-of-enough-length"})).status == 200  # fmt: skip
            assert len(house.inlet.rows) == 2
            assert TOKEN not in repr(house.inlet.bad)

    run(work)


def test_a_wrong_token_is_in_the_journal_once_a_minute_for_each_address_and_without_itself(token_file, caplog):
    async def work():
        opts = options(token_file=Secret(str(token_file)))
        async with serving(opts) as house:
            for n in range(4):
                for address in ("127.0.0.1", "127.0.0.2"):
                    headers = {"Authorization": f"Bearer guess-{n}"}
                    assert (await post(opts, body=b"x", headers=headers, local_addr=(address, 0))).status == 401
            assert (await post(opts, body=b"x", headers=BEARER)).status == 200
            assert len(house.inlet.rows) == 1

    run(work)
    told = [record.getMessage() for record in caplog.records if record.name == "tidegate.web"]
    assert sorted(line.partition("; ")[0] for line in told) == [
        f"a wrong token for the driver plant came from 127.0.0.{n}" for n in (1, 2)
    ]
    assert "guess" not in caplog.text


def test_what_curl_sends_by_itself_is_read_as_the_json_that_it_is():
    opts = options(key_field="device", key="none")

    async def work():
        async with serving(opts) as house, Client(opts) as client:
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            assert (await client.post("/", b'[{"device":"a"},21.5]', form)).said == {"recorded": 2}
            assert (await client.post("/", b"open", form)).said == {"recorded": 1}
            wrong = await client.post("/", b"[12:30] open", form)
            assert wrong.status == 400
            assert "text/plain" in wrong.said["error"]
            assert [row[1:3] for row in house.inlet.rows] == [
                ("a", b'{"device":"a"}'),
                ("none", b"21.5"),
                ("none", b"open"),
            ]

    run(work)


def test_who_guesses_tokens_is_not_looked_at_for_a_while(token_file):
    async def work():
        opts = options(token_file=Secret(str(token_file)))
        async with serving(opts) as house:
            for n in range(token_.TRIES):
                assert (await post(opts, body=b"x", headers={"Authorization": f"Bearer {n}"})).status == 401
            answer = await post(opts, body=b"x", headers=BEARER)
            assert (answer.status, 0 < int(answer.headers["retry-after"]) <= 61) == (429, True)
            other = await post(opts, body=b"x", headers=BEARER, local_addr=("127.0.0.2", 0))
            assert other.status == 200
            assert len(house.inlet.rows) == 1

    run(work)


def test_a_large_body_is_taken_apart_while_the_loop_goes_on(monkeypatch):
    """The thread is held: everybody else is served all the same, and after the end of the driver nothing is recorded."""
    entered, go_on, honest = threading.Event(), threading.Event(), door.values_of

    def held(plain, content_type, most):
        if len(plain) > door.LARGE:
            entered.set()
            assert go_on.wait(20)
        return honest(plain, content_type, most)

    monkeypatch.setattr(door, "values_of", held)
    large = b"[" + b"1," * door.LARGE + b"1]"

    async def work():
        opts = options(max_records=100_000)
        for ending in (False, True):
            entered.clear()
            go_on.clear()
            async with serving(opts) as house:
                headers = {"Content-Type": JSON, "Idempotency-Key": "1"}
                asked = [asyncio.create_task(post(opts, "/", large, headers)) for _ in range(2)]
                await asyncio.to_thread(entered.wait, 20)
                assert (await post(opts, body=b"small")).status == 200
                if ending:
                    house._tasks[0].cancel()
                    await until(lambda: house.driver._closing)
                go_on.set()
                answers = [await one for one in asked]
                if ending:
                    assert {answer.status for answer in answers} == {503}
                    assert house.inlet.values == [b"small"]
                else:
                    assert sorted(answer.said.get("repeated", False) for answer in answers) == [False, True]
                    assert house.inlet.values == [b"small"] + [b"1"] * (door.LARGE + 1)

    run(work)


# -- slow, many and hostile --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [b"", b"POST / HT", request(body=b"x") + b"POS"])
def test_a_header_that_comes_in_drops_is_given_up(monkeypatch, first):
    monkeypatch.setattr(driver, "HEADER_S", 0.4)

    async def work():
        opts = options()
        async with serving(opts), Client(opts) as client:
            await client.send(first)
            if b"x" in first:
                assert (await client.answer()).status == 200
            with pytest.raises(ConnectionError):
                async with asyncio.timeout(20):
                    while True:
                        await client.send(b"x")
                        await asyncio.sleep(0.05)

    run(work)


def test_a_body_that_comes_in_drops_is_given_up_and_told(monkeypatch):
    monkeypatch.setattr(door, "BODY_S", 0.4)
    monkeypatch.setattr(door, "LINGER_S", 0.1)

    async def work():
        opts = options()
        async with serving(opts) as house, Client(opts) as client:
            await client.send(request(headers={"Content-Length": "1000"}) + b"half")
            assert (await client.answer()).status == 408
            assert await client.is_closed()
            assert (house.inlet.rows, house.driver._owed_bytes) == ([], 0)

    run(work)


def test_a_client_that_goes_in_the_middle_leaves_nothing_behind():
    async def work():
        opts = options()
        async with serving(opts) as house:
            for cut in (10, 60, 200):
                async with Client(opts) as client:
                    await client.send(request(headers={"Content-Length": "1000"})[:cut] + b"x" * (cut - 60))
            async with Client(opts) as client:
                await client.send(request(body=b"whole"))
            await until(lambda: house.inlet.committed)
            assert house.inlet.values == [b"whole"]

    run(work)


def test_bodies_that_are_too_much_together_are_turned_away(monkeypatch):
    doors = []
    monkeypatch.setattr(driver, "Door", lambda *given: doors.append(door.Door(*given)) or doors[-1])
    monkeypatch.setattr(door, "HELD", 100_000)
    monkeypatch.setattr(door, "LINGER_S", 0.1)

    async def work():
        opts = options()
        async with serving(opts), Client(opts) as first, Client(opts) as second:
            await first.send(request(headers={"Content-Length": "80000"}) + b"x" * 79_999)
            await until(lambda: doors and doors[0]._held == 79_999)
            answer = await second.post(body=b"y" * 30_000)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            await first.send(b"x")
            assert (await first.answer()).status == 200
            assert (await post(opts, body=b"y" * 30_000)).status == 200

    run(work)


def test_of_a_hundred_connections_so_many_are_served_and_the_others_are_told():
    async def work():
        opts = options(max_connections=20)
        async with serving(opts) as house, contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(opts)) for _ in range(100)]
            answers = [await client.answer() for client in clients[20:]]
            assert {answer.status for answer in answers} == {503}
            assert "too many connections" in answers[0].said["text"]
            assert {(await client.post(body=b"x")).status for client in clients[:20]} == {200}
            assert len(house.inlet.rows) == 20

    run(work)


def test_a_connection_at_rest_makes_room_for_a_new_one():
    async def work():
        opts = options(max_connections=3)
        async with serving(opts), contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(opts)) for _ in range(3)]
            for client in clients:
                assert (await client.post(body=b"x")).status == 200
            assert (await post(opts, body=b"new")).status == 200
            assert await clients[0].is_closed()
            assert (await clients[2].post(body=b"x")).status == 200

    run(work)


def test_a_connection_at_rest_is_closed_after_a_while(monkeypatch):
    monkeypatch.setattr(driver, "IDLE_S", 0.2)

    async def work():
        opts = options()
        async with serving(opts), Client(opts) as client:
            assert (await client.post(body=b"x")).status == 200
            assert await client.is_closed()

    run(work)


HOSTILE = [
    b"\x16\x03\x01\x02\x00\x01\x00", b"GET", b"\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b"POST / HTTP/9.9\r\nHost: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", b"POST /" + b"y" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /\xff HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nX\x00: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    b"POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nxNONSENSE\r\n\r\n",
]  # fmt: skip


def test_nonsense_harms_nobody_and_is_no_news(caplog, monkeypatch):
    monkeypatch.setattr(driver, "HEADER_S", 1.0)
    monkeypatch.setattr(door, "LINGER_S", 0.1)
    rng = random.Random(5)
    valid = request("/", b'{"v":1}', {"Content-Type": JSON})
    spoilt = []
    for _ in range(60):
        at = rng.randrange(len(valid))
        spoilt.append(valid[:at] + rng.randbytes(rng.randrange(1, 9)) + valid[at + rng.randrange(9) :])

    async def work():
        opts = options(max_connections=500)

        async def send(data):
            async with Client(opts) as client:
                await client.send(data)
                with contextlib.suppress(ConnectionError, TimeoutError):
                    async with asyncio.timeout(3):
                        await client.reader.read()

        async with serving(opts) as house:
            await asyncio.gather(*[send(data) for data in [*HOSTILE, *spoilt]])
            before = len(house.inlet.rows)
            assert (await post(opts, body=b"fine")).status == 200
            assert house.inlet.values[before:] == [b"fine"]
            assert len(house.inlet.bad) >= 10
            assert house.driver._owed_bytes == 0

    run(work)
    assert [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


# -- TLS, addresses, start ---------------------------------------------------------------------------------------------


def test_with_a_certificate_it_is_https_and_only_clients_of_the_ca_come_in(tmp_path):
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    certificate, key = ours.issue("gateway")
    papers = {"cert_file": LocalPath(str(certificate)), "key_file": LocalPath(str(key))}
    trusted = ssl.create_default_context(cafile=str(ours.ca))

    async def work():
        opts = options(**papers)
        async with serving(opts) as house:
            assert "https://" in house.inlet.states[-1][1]
            assert (await post(opts, body=b"x", ssl=trusted, server_hostname="localhost")).status == 200
            async with Client(opts) as client:  # plain HTTP is not spoken here
                await client.send(request(body=b"x"))
                assert await client.is_closed()
            await until(lambda: house.inlet.bad)
            assert house.inlet.bad[-1][0].startswith("no TLS: ")
            assert house.inlet.values == [b"x"]
        opts = options(**papers, client_ca_file=LocalPath(str(ours.ca)))
        async with serving(opts) as house:
            stranger = ssl.create_default_context(cafile=str(ours.ca))
            stranger.load_cert_chain(*theirs.issue("sensor"))
            for context in (trusted, stranger):
                with pytest.raises((OSError, asyncio.IncompleteReadError)):
                    await post(opts, body=b"x", ssl=context, server_hostname="localhost")
            known = ssl.create_default_context(cafile=str(ours.ca))
            known.load_cert_chain(*ours.issue("sensor"))
            assert (await post(opts, body=b"y", ssl=known, server_hostname="localhost")).status == 200
            assert house.inlet.values == [b"y"]

    run(work)


def test_one_too_many_that_does_not_say_farewell_is_closed_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "HEADER_S", 2.0)
    authority = Authority(tmp_path)
    certificate, key = authority.issue("gateway")
    trusted = ssl.create_default_context(cafile=str(authority.ca))

    def silent(port):
        """Shakes hands, and then says nothing any more, also not that it has heard the end."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = trusted.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with socket.create_connection(("127.0.0.1", port), 20) as plain:
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    plain.sendall(outgoing.read())
                    incoming.write(plain.recv(65536))
            plain.sendall(outgoing.read())
            with contextlib.suppress(ConnectionError):
                while plain.recv(65536):
                    pass

    async def work():
        files = {"cert_file": LocalPath(str(certificate)), "key_file": LocalPath(str(key))}
        opts = options(**files, max_connections=1)
        async with serving(opts), Client(opts, ssl=trusted, server_hostname="localhost") as first:
            await first.send(b"POST / ")
            await asyncio.to_thread(silent, int(opts.listen.split(":")[1]))

    run(work)


def test_a_renewed_certificate_is_shown_to_the_next_client_and_a_broken_one_is_told(tmp_path):
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    certificate, key = old.issue("gateway")

    async def work():
        opts = options(cert_file=LocalPath(str(certificate)), key_file=LocalPath(str(key)))
        async with serving(opts) as house:

            async def reaches(authority):
                context = ssl.create_default_context(cafile=str(authority.ca))
                return (await post(opts, body=b"x", ssl=context, server_hostname="localhost")).status

            assert await reaches(old) == 200
            for ours, theirs in zip((certificate, key), new.issue("gateway"), strict=True):
                shutil.copy(theirs, ours)
            assert await reaches(new) == 200
            certificate.write_text("nonsense")
            assert await reaches(new) == 200
            assert "still with the certificate of before: cert_file" in house.inlet.states[-1][1]

    run(work)


def test_files_of_tls_that_cannot_be_used_are_told_at_the_start(tmp_path):
    missing = LocalPath(str(tmp_path / "missing"))

    async def work():
        async with House(plugin, options(cert_file=missing, key_file=missing)) as house:
            await until(lambda: house.failures)
            assert "cert_file" in house.failures[0]
            assert "No such file" in house.inlet.states[-1][1]

    run(work)


def test_an_address_that_is_taken_is_told_and_tried_again():
    async def work():
        taken = socket.create_server(("127.0.0.1", 0))
        opts = options(listen=f"127.0.0.1:{taken.getsockname()[1]}")
        async with House(plugin, opts) as house:
            await until(lambda: house.failures)
            assert "another program has it" in house.inlet.states[-1][1]
            taken.close()
            await until(lambda: house.inlet.states[-1][0] == "up")
            assert (await post(opts, body=b"x")).status == 200

    run(work)


def test_the_web_libraries_come_with_the_first_client():
    program = """
import asyncio, sys
sys.path.insert(0, "tests/rig")
from house import House, until
from drivers.http import Options, plugin
from gateway.testing import free_port
async def work():
    opts = Options(listen=f"127.0.0.1:{free_port()}", stream="s")
    async with House(plugin, opts) as house:
        await until(lambda: house.inlet.states)
        assert not {"uvicorn", "h11", "starlette"} & set(sys.modules)
        reader, writer = await asyncio.open_connection(*opts.listen.split(":"))
        writer.write(b"POST / HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 1\\r\\n\\r\\nx")
        assert b"200" in await reader.readline()
        writer.close()
        assert "uvicorn" in sys.modules and "starlette" not in sys.modules
asyncio.run(work())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_sniffing_answers_as_the_gateway_does_and_says_when_the_address_is_taken():
    port = free_port()
    listen = f"127.0.0.1:{port}"
    command = [sys.executable, "-m", "gateway", "sniff", "http", f"listen={listen}", "stream=s", "--json"]
    with subprocess.Popen([*command, "--count", "2"], stdout=subprocess.PIPE) as process:
        assert json.loads(process.stdout.readline())["state"] == "up"
        opts = Options(listen=listen, stream="s")
        assert asyncio.run(post(opts, body=b'[{"v":1},{"v":2}]', headers={"Content-Type": JSON})).said == {
            "recorded": 2
        }
        out, _ = process.communicate(timeout=30)
        assert (process.returncode, out.count(b'"v":{"v":')) == (0, 2)
    with socket.create_server(("127.0.0.1", port)):
        found = subprocess.run([*command, "--seconds", "1"], capture_output=True, timeout=30)
    assert found.returncode == 1
    assert b"another program has it" in found.stdout + found.stderr
