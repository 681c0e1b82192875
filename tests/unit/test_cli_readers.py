"""The commands that look at a running gateway, against a real status server."""

import json
import re
import socket
import threading
import time

import pytest
from click.testing import CliRunner
from status_rig import Server

from gateway.cli import _client, lag, read, status
from gateway.record import Record

NOW = 1_790_000_000 * 10**9


@pytest.fixture(scope="module")
def shared():
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def gateway(shared):
    shared.source.__init__()
    return shared


def run(command, server, *args):
    return CliRunner().invoke(command.command, [*args, "--url", f"http://127.0.0.1:{server.port}"])


def offsets(result):
    assert result.exit_code == 0, result.output
    return [int(line.split()[0]) for line in result.output.splitlines()]


def test_status_shows_each_part_stream_and_reader(gateway):
    gateway.source.board.waiting("sink:cloud", "refused\x1b[31m")
    gateway.source.board.sample("driver:boiler", "no JSON", b"\xff\x00junk")
    gateway.source.readers = [
        {"reader": "sink:cloud", "stream": "boiler", "position": 5, "lag": 2595, "oldest_unsent_s": 7300.0}
    ]
    result = run(status, gateway)
    assert result.exit_code == 1  # one part waits
    lines = result.output.splitlines()
    assert lines[0] == "g  tidegate 0.1.0, up 2 h"
    assert lines[1] == "all 2 parts are up"
    assert re.search(r"^sink:cloud +waiting +20\S+ \S+ +0  refused\\x1b\[31m$", result.output, re.MULTILINE)
    assert re.search(r"driver:boiler +20.* no JSON +\\xff\\x00junk", result.output)
    assert re.search(r"^boiler +10 +2590 +2600 +0  1.5 KiB  normal$", result.output, re.MULTILINE)
    assert re.search(r"^sink:cloud  boiler +5  2595  2.03 h$", result.output, re.MULTILINE)
    assert (
        lines[-1]
        == "log /var/lib/tidegate: 1 MiB of 2 GiB, 4 commits, 9 B written; a power cut now would take 12 records"
    )


def test_status_of_a_gateway_that_is_not_ready_is_exit_code_1(gateway):
    gateway.source.is_ready = False
    result = run(status, gateway)
    assert result.exit_code == 1
    assert "NOT READY" in result.output
    assert "no such port" in result.output


def test_json_is_what_the_gateway_says(gateway):
    assert json.loads(run(status, gateway, "--json").output) == gateway.source.status()
    assert json.loads(run(lag, gateway, "--json").output) == []


def test_lag_shows_the_worst_first(gateway):
    row = {"reader": "sink:a", "stream": "s", "position": 1, "lag": 5, "oldest_unsent_s": None}
    gateway.source.readers = [row, {**row, "reader": "sink:b", "lag": 500, "oldest_unsent_s": 90.0}]
    lines = run(lag, gateway).output.splitlines()
    assert [line.split()[0] for line in lines] == ["READER", "sink:b", "sink:a"]
    assert lines[1].endswith("500  1.5 min")
    gateway.source.readers = []
    assert run(lag, gateway).output == "no reader yet\n"


def test_read_shows_gaps_and_records_in_order(gateway):
    lines = run(read, gateway, "boiler", "--limit", "2").output.splitlines()
    assert lines[0] == "         0  … to 99: gone for ever (evicted)"
    assert re.fullmatch(r' {7}100  1970-01-01 \S+  k  \{"v": 100\}  \(retained\)', lines[1])
    assert len(lines) == 3


def test_read_goes_through_all_pages_and_stops_at_the_limit(gateway):
    assert offsets(run(read, gateway, "boiler", "--from", "150", "--limit", "2345")) == list(range(150, 2495))
    assert offsets(run(read, gateway, "boiler", "--from", "2590")) == list(range(2590, 2600))
    assert len(offsets(run(read, gateway, "boiler", "--from", "100"))) == read.USUAL
    assert offsets(run(read, gateway, "boiler", "--from", "1970-01-01T00:00:00.002500+00:00", "--limit", "1")) == [2500]


def test_read_filters_by_key_across_pages(gateway):
    gateway.source.items = [Record(i, i, f"site/{i % 1500}/temp", b"1") for i in range(3000)]
    assert offsets(run(read, gateway, "boiler", "--key", "site/[17]/*")) == [1, 7, 1501, 1507]
    assert offsets(run(read, gateway, "boiler", "--key", "*/7/temp", "--limit", "1")) == [7]
    result = run(read, gateway, "boiler", "--key", "nothing")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "nothing found: boiler has no record with a key like 'nothing'\n"


def test_read_as_json_is_the_wire_form_line_by_line(gateway):
    output = run(read, gateway, "boiler", "--json", "--limit", "2").output.splitlines()
    assert output == [
        '{"gap":[0,99],"cause":"evicted"}',
        '{"o":100,"t":100000,"k":"k","v":{"v":100},"r":true}',
        '{"o":101,"t":101000,"k":"k","v":{"v":101}}',
    ]


def test_nothing_that_was_read_reaches_the_terminal_unescaped(gateway):
    gateway.source.items = [Record(0, 0, "a\x1b]0;x\x07\n", "text \x1b[2J \x9b".encode()), Record(1, 0, "k", b"\xff")]
    result = run(read, gateway, "boiler")
    assert "a\\x1b]0;x\\x07\\n  text \\x1b[2J \\x9b" in result.output
    assert '{"$b": "/w=="}' in result.output
    assert len(result.output.splitlines()) == 2


def test_follow_shows_what_comes_from_now_on(gateway, monkeypatch):
    monkeypatch.setattr(read, "LOOK_S", 0.02)

    def later():
        time.sleep(0.3)
        gateway.source.items = gateway.source.items + [Record(2600 + i, 0, "k", b"1") for i in range(3)]

    thread = threading.Thread(target=later)
    thread.start()
    assert offsets(run(read, gateway, "boiler", "--follow", "--limit", "3")) == [2600, 2601, 2602]
    thread.join()


@pytest.mark.parametrize("wrong", ["yesterday", "-1", "-1y", "1e3", "12:00:00x", ""])
def test_a_place_that_is_none_says_what_to_write(gateway, wrong):
    result = run(read, gateway, "boiler", "--from", wrong)
    assert result.exit_code == 2
    assert "how long ago (-1h)" in result.output


def test_places_are_offsets_times_and_how_long_ago():
    assert read.place("1234", NOW) == {"from": 1234}
    assert read.place("-1h", NOW) == {"time": NOW - 3600 * 10**9}
    assert read.place("2026-11-23T19:30:00Z", NOW) == {"time": 1795462200 * 10**9}
    assert read.place("2026-11-23 20:30+01:00", NOW) == {"time": 1795462200 * 10**9}
    local = read.place("2026-11-23T19:30", NOW)["time"]
    assert _client.local_time(local).startswith("2026-11-23 19:30:00.000")


def test_an_unknown_stream_names_those_there_are(gateway):
    for args in ((), ("--follow",)):
        result = run(read, gateway, "boilr", *args)
        assert result.exit_code == 1
        assert "no stream is called 'boilr'; there are: boiler, large" in result.output


@pytest.mark.parametrize("command", [status, lag])
def test_a_gateway_that_does_not_run_is_said_with_the_address_that_was_tried(command):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        port = taken.getsockname()[1]
        result = CliRunner().invoke(command.command, ["--url", f"127.0.0.1:{port}"])
    assert result.exit_code == 1
    assert f"nothing answers at 127.0.0.1:{port} (from --url): Connection refused" in result.output
    assert "systemctl status tidegate" in result.output


def test_something_else_on_the_port_is_no_traceback():
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer():
            for reply in (b"220 smtp ready\r\n", b"HTTP/1.1 500 Oops\r\ncontent-length: 2\r\n\r\n\x1b!"):
                client, _ = other.accept()
                client.recv(1000)
                client.sendall(reply)
                client.close()

        thread = threading.Thread(target=answer)
        thread.start()
        results = [CliRunner().invoke(lag.command, ["--url", f"127.0.0.1:{other.getsockname()[1]}"]) for _ in range(2)]
        thread.join(10)
    assert [r.exit_code for r in results] == [1, 1]
    assert "nothing answers" in results[0].output
    assert "answered 500: \\x1b!" in results[1].output


def test_the_address_comes_from_the_configuration_even_if_that_has_mistakes(gateway, tmp_path, monkeypatch):
    config = tmp_path / "tidegate.yaml"
    monkeypatch.setenv("STATUS_PORT", str(gateway.port))
    config.write_text("gateway: {id: g, status: '127.0.0.1:${STATUS_PORT}'}\nsinks: {x: {sinq: mqtt}}\n")
    result = CliRunner().invoke(status.command, ["--config", str(config)])
    assert (result.exit_code, result.output.splitlines()[0]) == (0, "g  tidegate 0.1.0, up 2 h")
    config.write_text("gateway: {id: g, status: null}\n")
    result = CliRunner().invoke(status.command, ["--config", str(config)])
    assert (result.exit_code, "turns the status address off" in result.output) == (1, True)


def test_a_configuration_that_is_not_there_and_an_address_that_is_none(tmp_path):
    result = CliRunner().invoke(status.command, ["--config", str(tmp_path / "none.yaml")])
    assert (result.exit_code, "there is no file" in result.output) == (2, True)
    result = CliRunner().invoke(status.command, ["--url", "nonsense"])
    assert (result.exit_code, "is no address" in result.output) == (2, True)


def test_quantities_read_well():
    assert [_client.duration(s) for s in (None, 0.25, 59, 90, 7200, 200_000)] == [
        "-", "0.25 s", "59 s", "1.5 min", "2 h", "2.31 d",
    ]  # fmt: skip
    assert [_client.size(n) for n in (0, 1023, 1536, 5 << 20, 3 << 30)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5 MiB",
        "3 GiB",
    ]
    assert _client.local_time(10**30).endswith("ns")
