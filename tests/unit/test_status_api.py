"""The real server on a real port: what it answers, what it refuses, and what hostile connections can do to it."""

import asyncio
import contextlib
import json
import logging
import socket
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from status_rig import FakeSource, Server

from gateway.address import parse_address
from gateway.config import StatusOptions
from gateway.record import Record, dead_letter
from gateway.status import Status, api, web
from gateway.status.api import MOST_BYTES, parse_time


@pytest.fixture(scope="module")
def shared():
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def server(shared):
    shared.source.__init__()
    return shared


RECORDS = "/api/v1/streams/boiler/records"


def test_the_pages_for_machines(server):
    assert server.get("/healthz").text == b"ok\n"
    assert server.get("/readyz").status == 200
    server.source.is_ready = False
    answer = server.get("/readyz")
    assert (answer.status, answer.text) == (503, b"not ready\ndriver:boiler waits: no such port\n")
    answer = server.get("/metrics")
    assert b"tidegate_commits_total 3.0" in answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    assert b"/api/v1/status" in server.get("/").text


def test_status_and_streams_are_what_the_daemon_says(server):
    assert server.json("/api/v1/status") == (200, server.source.status())
    assert server.json("/api/v1/streams") == (200, server.source.streams())
    assert server.json("/api/v1/pipelines") == (200, server.source.pipelines())
    assert server.json("/api/v1/history") == (200, server.source.history())


def test_dead_letters_are_told_newest_first_and_no_more_than_asked_for(server):
    value = dead_letter("typed", "decode", "no", "boiler", Record(5, 5, "k", b"\xff"))
    server.source.letters = [Record(i, i, "k", value) for i in range(300)]
    code, answer = server.json("/api/v1/dead?limit=2")
    assert (code, answer["total"], [row["offset"] for row in answer["records"]]) == (200, 300, [299, 298])
    assert answer["records"][0]["raw"] == "\\xff"
    assert len(server.json("/api/v1/dead")[1]["records"]) == 50
    assert server.json("/api/v1/dead?limit=201")[0] == 400


def test_records_are_read_page_by_page_without_a_hole(server):
    offsets, at = [], 0
    while True:
        code, page = server.json(f"{RECORDS}?from={at}&limit=1000")
        assert code == 200
        if not page["records"]:
            break
        offsets += [r["o"] for r in page["records"] if "o" in r]
        at = page["next"]
    assert offsets == list(range(100, 2600))
    _, page = server.json(RECORDS)
    assert len(page["records"]) == 100
    assert page["records"][:2] == [
        {"gap": [0, 99], "cause": "evicted"},
        {"o": 100, "t": 100_000, "k": "k", "v": {"v": 100}, "r": True},
    ]
    _, page = server.json(f"{RECORDS}?time=200000&limit=1")
    assert page["records"][0]["o"] == 200


def test_records_come_as_lines_to_those_who_ask(server):
    answer = server.get(f"{RECORDS}?from=100&limit=3", headers={"Accept": "application/x-ndjson"})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["tidegate-next"] == "103"
    assert [json.loads(line)["o"] for line in answer.text.splitlines()] == [100, 101, 102]


def test_an_answer_is_cut_at_its_size_and_still_makes_progress(server):
    offsets, at = [], 0
    while len(offsets) < 10:
        answer = server.get(f"/api/v1/streams/large/records?from={at}&limit=1000")
        page = json.loads(answer.text)
        assert len(answer.text) <= MOST_BYTES + 100 or len(page["records"]) == 1
        offsets += [r["o"] for r in page["records"]]
        at = page["next"]
    assert offsets == list(range(10))


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=ten", "limit=", "from=-1", "from=1e3", "from=%D9%A1", "from=99999999999999999999",
     "time=yesterday", "time=2026-11-23T19:30:00", "time=", "from=1&time=1"],
)  # fmt: skip
def test_a_request_that_makes_no_sense_says_what_to_write(server, query):
    code, body = server.json(f"{RECORDS}?{query}")
    assert code == 400
    assert any(word in body["error"] for word in ("write", "exclude"))


def test_an_unknown_stream_lists_those_there_are(server):
    for path in ("/api/v1/streams/boilr/records", "/api/v1/streams/boilr/records?time=5"):
        code, body = server.json(path)
        assert (code, body["error"]) == (404, "no stream is called 'boilr'; there are: boiler, large")
    for path in ("/nothing", "/api/v1/streams/../../etc/passwd", "/api/v1/streams/a%2Fb/records", "/%00"):
        assert server.json(path)[0] == 404


def test_times_are_read_exactly():
    assert parse_time("1790000000123456789") == 1790000000123456789
    assert parse_time("2026-11-23T19:30:00Z") == parse_time("2026-11-23T20:30:00+01:00") == 1795462200 * 10**9
    assert parse_time("1970-01-01T00:00:00.000001+00:00") == 1000


def test_a_bug_in_an_answer_shows_nothing_of_itself_and_harms_no_other(server, caplog):
    server.source.broken = True
    answer = server.get("/api/v1/status")
    assert answer.status == 500
    assert b"secret" not in answer.text
    assert server.get("/healthz").status == 200
    assert any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/api/v1/status", "/nothing", RECORDS])
def test_every_answer_carries_the_protective_headers(server, path):
    for method in ("GET", "HEAD", "POST"):
        headers = server.get(path, method).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "FOO"])
def test_nothing_can_be_changed(server, method):
    answer = server.get("/api/v1/status", method)
    assert answer.status in (400, 405)
    assert b"all 2 parts" not in answer.text


def test_head_has_headers_and_no_body(server):
    answer = server.get("/healthz", "HEAD")
    assert (answer.status, answer.text) == (200, b"")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST", "localhost:9999", "[::1]:8765"])
def test_the_names_of_this_machine_are_answered(server, host):
    assert server.get("/healthz", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "localhost.", "localhost@evil", "", "127.0.0.1:evil", "[::1]x", "2130706433", "localhost:80:80"],
)  # fmt: skip
def test_another_name_gets_nothing_so_that_rebinding_is_useless(server, host):
    for path in ("/api/v1/status", "/metrics", "/nothing"):
        answer = server.get(path, headers={"Host": host})
        assert answer.status in (400, 421)
        assert b"all 2 parts" not in answer.text


def test_scripts_of_other_sites_get_nothing_and_links_work(server):
    def code(**headers):
        return server.get("/api/v1/status", headers={k.replace("_", "-"): v for k, v in headers.items()}).status

    own = f"http://127.0.0.1:{server.port}"
    assert code(Origin="http://evil.example") == code(Origin="null") == code(Origin="http://localhost:1") == 403
    assert code(Origin=own) == 200
    assert code(Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors") == 403
    assert code(Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate") == 200
    assert code(Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors") == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET http://evil.example/api/v1/status HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n X: folded\x00\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(2000)) + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/one\r\nHost: localhost\r\n\r\n",
    ],
)
def test_a_request_that_breaks_the_rules_is_refused_and_the_connection_closed(server, request_bytes):
    answer = server.talk(request_bytes)
    assert not answer.startswith(b"HTTP/1.1 200")
    assert b"all 2 parts" not in answer
    assert server.get("/healthz").status == 200


def test_one_connection_is_one_request(server):
    one = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = server.talk(one * 50)
    assert answer.count(b"HTTP/1.1 200") == 1
    answer = server.talk(one[:-2] + b"Content-Length: 100000000\r\n\r\n" + bytes(100_000))
    assert answer.count(b"HTTP/1.1") == 1


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + tail + b"\r\n\r\n"))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_no_bytes_stop_the_server(shared, data):
    shared.talk(data + b"\r\n\r\n")
    assert shared.get("/healthz").status == 200


def test_slow_and_silent_clients_are_given_up_and_others_served_again(server, monkeypatch):
    monkeypatch.setattr(web, "HEADER_S", 0.5)
    clients = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(web.CONNECTIONS)]
    try:
        for client in clients[::2]:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: loc")
        until = time.monotonic() + 10
        while server.get("/healthz").status != 503 and time.monotonic() < until:
            time.sleep(0.01)
        for client in clients[::4]:  # a drop now and then does not buy time
            with contextlib.suppress(ConnectionError):
                client.sendall(b"a")
        assert [Server.drain(client) for client in clients] == [b""] * len(clients)
        assert server.get("/healthz").status == 200
    finally:
        for client in clients:
            client.close()


def test_a_client_that_does_not_take_its_answer_is_given_up(server, monkeypatch):
    monkeypatch.setattr(web, "HEADER_S", 0.2)
    monkeypatch.setattr(web, "ANSWER_S", 0.5)
    size = 16 << 20  # more than the kernel buffers for a client that does not read
    server.source.large = [Record(0, 0, "k", b'"' + b"x" * size + b'"')]
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(10)
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"GET /api/v1/streams/large/records HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(1.5)
        assert len(Server.drain(client)) < size
    assert server.get("/healthz").status == 200


def test_a_stop_lets_an_answer_under_way_finish_and_takes_no_new_one():
    server = Server()
    assert server.get("/healthz").status == 200
    server.source.hold = asyncio.Event()
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        client.sendall(f"GET {RECORDS}?from=100&limit=1 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        time.sleep(0.2)
        server.call(server._task.cancel)
        time.sleep(0.2)
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", server.port), 1).close()
        server.call(server.source.hold.set)
        assert b'"o":100' in Server.drain(client)
    server.stop()


def test_a_stop_does_not_wait_for_a_client_that_says_nothing(monkeypatch):
    monkeypatch.setattr(web, "STOP_S", 0.3)
    server = Server()
    server.get("/healthz")
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        time.sleep(0.1)
        server.stop()
        assert Server.drain(client) == b""


def test_a_stop_before_anybody_connected_is_a_stop():
    Server().stop()


def test_a_taken_port_is_known_at_once_and_named():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port}: Address already in use"):
            Status(StatusOptions(listen=f"127.0.0.1:{port}"), FakeSource()).bind()


def test_until_somebody_connects_no_web_library_is_loaded():
    code = """
import asyncio, socket, sys
from gateway.config import StatusOptions
from gateway.status import Status
import gateway.metrics, gateway.health, gateway.retry, gateway.notify, gateway.logs, gateway.formats
heavy = {"starlette", "uvicorn", "anyio", "h11", "prometheus_client", "rich", "click"}
async def scenario():
    status = Status(StatusOptions(listen="127.0.0.1:0"), None)
    status.bind()
    task = asyncio.create_task(status.serve())
    await asyncio.sleep(0.1)
    print(sorted(heavy & set(sys.modules)))
    _, writer = await asyncio.open_connection("127.0.0.1", status.port)
    while "gateway.status.web" not in sys.modules:
        await asyncio.sleep(0.02)
    writer.close()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
asyncio.run(scenario())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_addresses():
    assert parse_address("127.0.0.1:8765") == ("127.0.0.1", 8765)
    assert parse_address("[::1]:0") == ("::1", 0)
    for wrong in ("", "8765", "127.0.0.1", "127.0.0.1:", ":8765", "::1:8765", "h:99999", "h:-1", "h:١"):
        with pytest.raises(ValueError):
            parse_address(wrong)


@pytest.fixture
def paged(tmp_path, monkeypatch):
    """A server with a page of its own."""
    folder = tmp_path / "static"
    folder.mkdir()
    (tmp_path / "secret.js").write_text("secret")
    (folder / "index.html").write_text("<!doctype html><title>page</title>")
    (folder / "app.js").write_text("'use strict'")
    (folder / "style.css").write_text("body {}")
    monkeypatch.setattr(api, "STATIC", folder)
    server = Server()
    yield server
    server.stop()


def test_browsers_get_the_page_and_others_the_list(paged):
    answer = paged.get("/", headers={"Accept": "text/html,*/*"})
    assert (answer.status, answer.text) == (200, b"<!doctype html><title>page</title>")
    assert answer.headers["content-type"].startswith("text/html")
    assert b"/api/v1/status" in paged.get("/", headers={"Accept": "*/*"}).text


@pytest.mark.parametrize(
    "name,kind", [("app.js", "javascript"), ("style.css", "text/css"), ("index.html", "text/html")]
)
def test_files_of_the_page_come_under_a_strict_policy_and_once(paged, name, kind):
    answer = paged.get(f"/static/{name}")
    assert kind in answer.headers["content-type"]
    assert answer.headers.get_all("cache-control") == ["no-cache"]
    (policy,) = answer.headers.get_all("content-security-policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert "unsafe" not in policy
    again = paged.get(f"/static/{name}", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status, again.text) == (304, b"")


@pytest.mark.parametrize(
    "path",
    ["/static/", "/static", "/static/../secret.js", "/static/..%2fsecret.js", "/static/%2e%2e/secret.js", "/static/none.js",
     "/static//app.js", "/static/app.js%00", "/static/./app.js/", "/static/api.py"],
)  # fmt: skip
def test_only_files_of_the_page_are_served(paged, path):
    answer = paged.talk(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert b"404" in answer.split(b"\r\n")[0]
    assert b"secret" not in answer


def test_uvicorn_says_nothing_at_start(server, caplog):
    with caplog.at_level(logging.INFO):
        assert server.get("/healthz").status == 200
    assert [r for r in caplog.records if r.name.startswith("uvicorn")] == []
