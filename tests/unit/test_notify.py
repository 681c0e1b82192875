import io
import logging
import os
import socket

import pytest

from gateway import logs
from gateway.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A datagram socket as systemd's, at a path or in the abstract namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        name = str(tmp_path / "notify") if request.param == "path" else f"@tidegate-test-{os.getpid()}"
        server.bind("\0" + name[1:] if name.startswith("@") else name)
        server.settimeout(5)
        yield name, server


def test_systemd_hears_each_message_as_it_is_defined(manager):
    name, server = manager
    notify = Notifier({"NOTIFY_SOCKET": name})
    notify.ready("all 3 parts are up")
    assert server.recv(4096) == b"READY=1\nSTATUS=all 3 parts are up"
    notify.watchdog()
    assert server.recv(4096) == b"WATCHDOG=1"
    notify.reloading()
    assert server.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    notify.stopping()
    assert server.recv(4096) == b"STOPPING=1"


def test_a_status_cannot_smuggle_an_assignment(manager):
    name, server = manager
    Notifier({"NOTIFY_SOCKET": name}).status("bad\nWATCHDOG=trigger\r\nREADY=1")
    assert server.recv(4096) == b"STATUS=bad WATCHDOG=trigger READY=1"


def test_without_a_manager_nothing_happens(tmp_path):
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "nobody")}, {"NOTIFY_SOCKET": "@nobody-at-all"}):
        notify = Notifier(environment)
        notify.ready("x")
        notify.watchdog()
        assert notify.interval_s is None


def test_a_manager_that_does_not_read_blocks_nobody(manager):
    name, _ = manager
    notify = Notifier({"NOTIFY_SOCKET": name})
    for _ in range(5000):
        notify.watchdog()


def test_the_watchdog_interval_is_ours_only_if_it_is_meant_for_us():
    assert Notifier({"WATCHDOG_USEC": "60000000"}).interval_s == 60
    assert Notifier({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}).interval_s == 60
    assert Notifier({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}).interval_s is None
    for nonsense in ("", "0", "-1", "soon"):
        assert Notifier({"WATCHDOG_USEC": nonsense}).interval_s is None


@pytest.fixture
def written():
    """What the configured logging writes; the logging of the test run is put back afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.raiseExceptions
    stream = io.StringIO()

    def start(level="info", environment=()):
        logs.configure(level, stream=stream, environment=dict(environment))
        return lambda: stream.getvalue().splitlines()

    yield start
    root.handlers[:], root.level = before[0], before[1]
    logging.raiseExceptions = before[2]
    logging.captureWarnings(False)


def test_the_journal_gets_priorities_and_no_time(written):
    lines = written("debug", {"JOURNAL_STREAM": "8:1"})
    log = logging.getLogger("tidegate.x")
    log.debug("d")
    log.info("batch delivered", extra={"sink": "cloud", "records": 5})
    log.warning("w")
    log.error("e")
    assert lines() == [
        "<7>tidegate.x: d",
        "<6>tidegate.x: batch delivered sink=cloud records=5",
        "<4>tidegate.x: w",
        "<3>tidegate.x: e",
    ]


def test_a_person_gets_time_and_level(written):
    lines = written()
    logging.getLogger("tidegate.x").debug("unseen")
    logging.getLogger("tidegate.x").info("hello")
    (line,) = lines()
    assert line.endswith("INFO    tidegate.x: hello")
    assert line[:2] == "20"


def test_one_event_is_one_line_of_bounded_length_whatever_came_from_outside(written):
    lines = written(environment={"JOURNAL_STREAM": "8:1"})
    log = logging.getLogger("tidegate.x")
    log.info("topic %s", "a\r\nfake\x1b[31m\u2028b\x00\ud800")
    assert lines() == ["<6>tidegate.x: topic a\\r\\nfake\\x1b[31m\\u2028b\\x00\\ud800"]
    log.info("%s", "x" * 100_000)
    assert len(lines()[1]) < logs.LONGEST + 20


def test_a_traceback_is_one_line_with_the_innermost_call_first(written):
    lines = written()

    def inner():
        raise ValueError("two\nlines")

    try:
        try:
            inner()
        except ValueError as error:
            raise RuntimeError("outer") from error
    except RuntimeError:
        logging.getLogger("tidegate.x").exception("it crashed")
    (line,) = lines()
    assert "it crashed: RuntimeError: outer (at test_notify.py:" in line
    assert "after ValueError: two\\nlines (at test_notify.py:" in line
    assert "inner < test_notify.py:" in line


def test_a_flood_of_like_messages_is_cut_and_counted():
    now = 0.0
    few = logs.FewAlike(lambda: now)

    def record(message, *args):
        return logging.LogRecord("tidegate.x", logging.INFO, "", 0, message, args, None)

    passed = [few.filter(record("lost %d", i)) for i in range(100)]
    assert sum(passed) == logs.ALIKE
    assert few.filter(record("another"))
    now = logs.MINUTE
    later = record("lost %d", 101)
    assert few.filter(later)
    assert logs.OneLine(for_journal=True).format(later) == "<6>tidegate.x: lost 101 (90 like this were left out)"
