"""Server-sent events on a real port: what is told, to how many, and what a viewer that does not read can do."""

import asyncio
import contextlib
import json
import socket
import threading
import time

import pytest
from status_rig import NOW, Server, wait_for

from gateway.record import Gap, Record
from gateway.status import events, web


@pytest.fixture
def server():
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(events, "STATUS_S", 0.2)
    monkeypatch.setattr(events, "RECORDS_S", 0.1)


def first(found, name):
    return next(data for event, data in found if event == name)


def test_the_status_comes_at_once_and_again_when_something_changed(server, quick):
    with server.follow("/api/v1/events") as found:
        name, status = next(found)
        assert (name, status["viewers"], status["sentence"]) == ("status", 1, "all 2 parts are up")
        server.source.is_ready = False
        assert first(found, "status")["ready"] is False
    wait_for(lambda: server.json("/api/v1/status")[1]["viewers"] == 0)


def test_a_status_in_which_only_the_time_changed_is_not_sent_again(server, quick, monkeypatch):
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.5)
    said = server.source.status
    ticks = iter(range(10**6))
    server.source.status = lambda: {**said(), "now": next(ticks), "uptime_s": next(ticks) / 10}
    with server.follow("/api/v1/events") as found:
        assert [next(found)[0] for _ in range(4)] == ["status", "", "", ""]


def test_the_next_column_of_the_history_is_told_once(server, quick):
    with server.follow("/api/v1/events") as found:
        next(found)
        server.source.newest = lambda: {"until": NOW + 10, "values": {"in": 2.0, "out": None}}
        assert first(found, "history") == {"until": NOW + 10, "values": {"in": 2.0, "out": None}}
        server.source.is_ready = False
        assert next(found)[0] == "status"


def test_records_of_a_stream_begin_with_the_newest_and_go_on_without_a_hole(server, quick):
    with server.follow("/api/v1/events?stream=boiler") as found:
        begun = first(found, "records")
        assert (begun["stream"], begun["skipped"]) == ("boiler", 0)
        assert [record["o"] for record in begun["records"]] == list(range(2550, 2600))
        server.source.items = [*server.source.items, Record(2600, 1, "k", b"1"), Gap("boiler", 2601, 2609, "damaged")]
        server.source.items.append(Record(2610, 2, "k", b"2"))
        more = first(found, "records")
        assert more["records"] == [
            {"o": 2600, "t": 1, "k": "k", "v": 1},
            {"gap": [2601, 2609], "cause": "damaged"},
            {"o": 2610, "t": 2, "k": "k", "v": 2},
        ]


def test_what_is_too_much_to_show_is_counted(server, quick):
    with server.follow("/api/v1/events?stream=boiler") as found:
        first(found, "records")
        server.source.items = [*server.source.items, *(Record(i, i, "k", b"1") for i in range(2600, 3600))]
        more = first(found, "records")
        assert (len(more["records"]), more["skipped"]) == (50, 950)
    with server.follow("/api/v1/events?stream=large") as found:
        large = first(found, "records")
        assert ([record["o"] for record in large["records"]], large["skipped"]) == ([9], 9)


def test_an_unknown_stream_is_told_at_once(server):
    code, body = server.json("/api/v1/events?stream=boilr")
    assert (code, body["error"]) == (404, "no stream is called 'boilr'; there are: boiler, large")


def test_a_head_ends(server):
    assert server.get("/api/v1/events", "HEAD").status == 200


def test_a_bug_in_the_status_ends_a_viewer_and_not_the_server(server, quick, caplog):
    with server.follow("/api/v1/events") as found:
        next(found)
        server.source.broken = True
        assert list(found) == []
    server.source.broken = False
    assert server.json("/api/v1/status")[1]["viewers"] == 0


def test_viewers_beyond_the_most_are_refused_with_words_and_everything_else_is_answered(server):
    with contextlib.ExitStack() as stack:
        for _ in range(events.MOST_VIEWERS):
            next(stack.enter_context(server.follow("/api/v1/events")))
        code, body = server.json("/api/v1/events")
        assert code == 503
        assert "8 viewers already" in body["error"]
        assert server.json("/api/v1/status")[1]["viewers"] == 8
    wait_for(lambda: server.json("/api/v1/status")[1]["viewers"] == 0)
    with server.follow("/api/v1/events") as found:
        next(found)


def test_all_viewers_see_one_status_that_was_made_once(server, quick):
    made, said = [], server.source.status
    server.source.status = lambda: made.append(time.monotonic()) or {**said(), "loss_window_records": len(made)}
    with contextlib.ExitStack() as stack:
        viewers = [stack.enter_context(server.follow("/api/v1/events")) for _ in range(8)]
        for found in viewers:
            for _ in range(5):
                first(found, "status")
    assert len(made) <= 2 * (made[-1] - made[0]) / events.STATUS_S + 2  # and not eight times as often


def test_a_status_that_is_dear_is_made_more_rarely(server, quick, monkeypatch):
    made, said = [], server.source.status

    def dear():
        made.append(time.monotonic())
        time.sleep(0.02)
        return {**said(), "loss_window_records": len(made)}

    server.source.status = dear
    with server.follow("/api/v1/events") as found:
        for _ in range(4):
            first(found, "status")
    assert made[3] - made[0] >= 3 * events.SHARE * 0.02


def test_nothing_is_asked_of_the_daemon_when_nobody_follows(server, quick):
    with server.follow("/api/v1/events?stream=boiler") as found:
        next(found)
    wait_for(lambda: server.json("/api/v1/status")[1]["viewers"] == 0)
    asked = []
    for name in ("status", "newest", "end", "records"):
        setattr(server.source, name, lambda *_, name=name: asked.append(name))
    time.sleep(0.6)
    assert asked == []


def test_a_viewer_outlives_the_limit_of_an_answer(server, quick, monkeypatch):
    monkeypatch.setattr(web, "HEADER_S", 0.1)
    monkeypatch.setattr(web, "ANSWER_S", 0.2)
    with server.follow("/api/v1/events") as found:
        next(found)
        time.sleep(1.0)
        server.source.is_ready = False
        assert first(found, "status")["ready"] is False


def test_a_viewer_that_does_not_read_is_dropped_and_holds_nothing(server, quick, monkeypatch):
    monkeypatch.setattr(web, "ANSWER_S", 0.5)
    said = server.source.status
    ticks = iter(range(10**6))
    server.source.status = lambda: {**said(), "big": "x" * 200_000, "changing": next(ticks)}
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: server.json("/api/v1/status")[1]["viewers"] == 1)
        wait_for(lambda: server.json("/api/v1/status")[1]["viewers"] == 0)


@pytest.mark.parametrize("more", [b"A" * 100_000, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3, b"\r\n"])
def test_a_viewer_that_goes_on_talking_is_dropped_without_a_word(server, quick, more, caplog):
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        client.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: server.json("/api/v1/status")[1]["viewers"] == 1)
        client.sendall(more)
        server.drain(client)
        wait_for(lambda: server.json("/api/v1/status")[1]["viewers"] == 0)
    assert not caplog.records


def test_a_stop_ends_every_viewer_at_once(monkeypatch):
    monkeypatch.setattr(web, "STOP_S", 30.0)  # what has an end may take its time
    server = Server()
    with server.follow("/api/v1/events") as found, server.follow("/api/v1/events?stream=boiler") as other:
        next(found), next(other)
        stopped = threading.Thread(target=server.stop)
        stopped.start()
        with contextlib.suppress(ConnectionError):
            assert list(found) == []
        stopped.join(10)
        assert not stopped.is_alive()


def test_hostile_text_stays_inside_its_event(server, quick):
    nasty = "</script><img src=x onerror=alert(1)>\u2028\u202e\x00\r\n\ndata: forged\n\n"
    server.source.items = [Record(0, 0, nasty, nasty.encode()), Record(1, 1, "k", b'{"a":\n1,\r\n"b":2}')]
    server.source.board.waiting("driver:boiler", nasty)
    with server.follow("/api/v1/events?stream=boiler") as found:
        status = first(found, "status")
        assert status["components"][0]["detail"] == nasty
        records = first(found, "records")["records"]
        assert (records[0]["k"], records[0]["v"], records[1]["v"]) == (nasty, nasty, {"a": 1, "b": 2})


def test_the_events_are_what_a_browser_understands(server, quick):
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        client.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        text = b""
        while b"\n\n" not in text.partition(b"\r\n\r\n")[2]:
            text += client.recv(65536)
    head, _, body = text.partition(b"\r\n\r\n")
    assert b"cache-control: no-store" in head.lower()
    event = body.partition(b"event: ")[2]
    assert event.startswith(b"status\ndata: {")
    assert json.loads(event.split(b"data: ")[1].split(b"\n\n")[0])["gateway"] == "g"


def test_a_viewer_costs_one_task(server, quick):
    def tasks():
        found = []
        done = threading.Event()
        server.call(lambda: (found.extend(asyncio.all_tasks(server._loop)), done.set()))
        done.wait(5)
        return len(found)

    wait_for(lambda: server.get("/healthz").status == 200)
    before = tasks()
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            next(stack.enter_context(server.follow("/api/v1/events")))
        assert tasks() == before + 5
