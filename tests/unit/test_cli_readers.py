"""The commands that look at a running gateway, against a real status server."""

import json
import re
import socket
import threading
import time

import figures
import pytest
from click.testing import CliRunner
from status_rig import Server

from gateway.cli import _layout, lag, read, status
from gateway.cli._layout import console
from gateway.formats import wire_line
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
    return [int(line.split()[0]) for line in result.stdout.splitlines()]


@pytest.fixture
def told(gateway, monkeypatch):
    """Have the gateway tell this as its status."""

    def told(status):
        monkeypatch.setattr(gateway.source, "status", lambda: status)

    return told


def test_status_shows_the_sentence_and_each_part_of_the_journey(gateway, told):
    told(figures.status())
    result = run(status, gateway)
    assert result.exit_code == 1  # one part waits
    lines = result.output.splitlines()
    assert lines[0] == "g  tidegate 0.1.0, up 2 h"
    assert lines[1] == "▲ cloud unreachable for 12 min: 48,210 readings wait, room for 9 days"
    assert re.search(
        r"^boiler  serial  boiler +66/s  481,230  up +(?:20\S+ )?\d\d:\d\d:\d\d$", result.output, re.MULTILINE
    )
    assert re.search(
        r"^boiler  481,130  66/s +100  481230  1.5 KiB  (?:20\S+ )?\d\d:\d\d:\d\d$", result.output, re.MULTILINE
    )
    assert re.search(r"^hot +boiler  alarms  0.01/s +0 +3   480,000  up$", result.output, re.MULTILINE)
    assert re.search(
        r"^cloud  mqtt  alarms, boiler   0/s +433,020  48,210 +12 min  4.58 MiB  waiting  (?:20\S+ )?\d\d:\d\d:\d\d  Connection refused$",
        result.output, re.MULTILINE,
    )  # fmt: skip
    assert lines[-1] == (
        "log /var/lib/tidegate: 1 MiB of 2 GiB, reaches back 2 h, room for 9 d, 1 commit, 9 B written; "
        "a power cut now would take 12 records"
    )


def test_columns_that_say_nothing_are_left_out(gateway, told):
    calm = figures.status()
    calm["components"] = calm["components"][:2]
    for row in calm["sinks"]:
        row |= {"detail": "", "oldest_unsent_s": None}
    told(calm)
    result = run(status, gateway)
    assert result.exit_code == 0
    for head in ("RESTARTS", "BAD FRAMES", "LOST", "LATE", "DETAIL", "OLDEST WAITS"):
        assert head not in result.output
    assert "DEAD  FILTERED  STATE" in result.output


def test_what_is_amiss_beside_the_journey_is_shown_too(gateway, told):
    broken = figures.status()
    broken["components"][0] |= {"state": "waiting", "detail": "no room on the disk"}
    broken["components"][1]["bad_frames"] = [{"time": figures.NOW, "reason": "no JSON", "sample": "\\xff\\x00junk"}]
    broken["config"]["problems"] = [
        {"file": "t.yaml", "line": 3, "column": 5, "path": "sinks.x", "message": "unknown; did you mean y?"}
    ]
    told(broken)
    output = run(status, gateway).output
    assert re.search(r"^log   waiting  (?:20\S+ )?\d\d:\d\d:\d\d  no room on the disk$", output, re.MULTILINE)
    assert re.search(r"^driver:boiler +(?:20\S+ )?\d\d:\d\d:\d\d  no JSON  \\xff\\x00junk$", output, re.MULTILINE)
    assert re.search(r"^t.yaml:3:5 +sinks.x: unknown; did you mean y\?$", output, re.MULTILINE)


def test_nothing_of_a_status_reaches_the_terminal_unescaped(gateway, told):
    evil = figures.status(sentence="a\x1b[2J[red]b[/red]", gateway="g\u202eg")
    evil["sinks"][0]["detail"] = "refused \x1b]0;title\x07 [bold]x"
    told(evil)
    output = run(status, gateway).output
    assert "a\\x1b[2J[red]b[/red]" in output
    assert "g\\u202eg" in output
    assert "refused \\x1b]0;title\\x07 [bold]x" in output
    screen = console()
    with screen.capture() as capture:
        screen.print(_layout.rendered(status.describe(evil)))
    assert "[red]b[/red]" in capture.get()
    assert not set(capture.get()) & {"\x07", "\u202e"}


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
    gateway.source.readers = [row, {**row, "reader": "sink:b", "lag": 5000, "oldest_unsent_s": 90.0}]
    lines = run(lag, gateway).output.splitlines()
    assert [line.split()[0] for line in lines] == ["READER", "sink:b", "sink:a"]
    assert lines[1].endswith("5,000       1.5 min")
    gateway.source.readers = []
    assert run(lag, gateway).output == "no reader yet\n"


@pytest.mark.parametrize(
    ("over", "code"), [("4999", 1), ("5000", 0), ("89s", 1), ("90s", 0), ("2m", 0), ("much", 2), ("-1", 2)]
)
def test_lag_over_a_bound_is_exit_code_1(gateway, over, code):
    gateway.source.readers = [{"reader": "sink:a", "stream": "s", "position": 1, "lag": 5000, "oldest_unsent_s": 90.0}]
    result = run(lag, gateway, "--over", over)
    assert result.exit_code == code
    assert code != 2 or "how long the oldest may wait (10m)" in result.output


def test_read_shows_gaps_and_records_in_order(gateway):
    lines = run(read, gateway, "boiler", "--limit", "2").output.splitlines()
    assert lines[0] == "         0  … to 99: gone for ever (evicted)"
    assert re.fullmatch(r' {7}100  1970-01-01 \S+  k  \{"v":100\}  \(retained\)', lines[1])
    assert len(lines) == 3


def test_read_goes_through_all_pages_and_stops_at_the_limit(gateway):
    assert offsets(run(read, gateway, "boiler", "--from", "150", "--limit", "2345")) == list(range(150, 2495))
    assert offsets(run(read, gateway, "boiler", "--from", "2590")) == list(range(2590, 2600))
    some = run(read, gateway, "boiler", "--from", "100")
    assert len(offsets(some)) == read.USUAL
    assert some.stderr == "there is more: go on with --from 200, or say how many with --limit\n"
    assert offsets(run(read, gateway, "boiler", "--from", "1970-01-01T00:00:00.002500+00:00", "--limit", "1")) == [2500]
    assert offsets(run(read, gateway, "boiler", "--since", "1970-01-01T00:00:00.002598+00:00")) == [2598, 2599]
    assert "boiler has no record since 1h" in run(read, gateway, "boiler", "--since", "1h").stderr
    assert "write one of them" in run(read, gateway, "boiler", "--since", "1h", "--from", "0").output


def test_read_ends_before_the_place_it_was_told(gateway):
    assert offsets(run(read, gateway, "boiler", "--from", "150", "--until", "1500")) == list(range(150, 1500))
    end = "1970-01-01T00:00:00.000160+00:00"
    assert offsets(run(read, gateway, "boiler", "--from", "150", "--until", end)) == list(range(150, 160))
    result = run(read, gateway, "boiler", "--from", "150", "--until", "-1h")
    assert offsets(result) == list(range(150, 2600))
    result = run(read, gateway, "boiler", "--from", "150", "--until", "150")
    assert (result.stdout, result.stderr) == ("", "nothing found: boiler has no record from 150 until 150\n")
    assert run(read, gateway, "boiler", "--until", "soon").exit_code == 2


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
    assert '{"$b":"/w=="}' in result.output
    assert len(result.output.splitlines()) == 2


def test_json_means_the_same_and_holds_no_control_character_of_any_kind(gateway):
    values = [b'{"a":\t"\xc2\x9b31m\x7f \xc3\xa4 \xe2\x80\xae \xf3\xa0\x81\x81"}', "text \x85 \x9d".encode()]
    gateway.source.items = [Record(i, 0, "k\x9b\x1b", value) for i, value in enumerate(values)]
    result = run(read, gateway, "boiler", "--json")
    lines = result.output.split("\n")[:-1]
    assert all(line.isprintable() for line in lines)
    assert "ä" in lines[0]
    assert [json.loads(line) for line in lines] == [json.loads(wire_line(item)) for item in gateway.source.items]
    whole = run(status, gateway, "--json").output
    assert whole.replace("\n", "").isprintable()


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
    assert _layout.local_time(local).startswith("2026-11-23 19:30:00.000")


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
    assert "Is the gateway running there, and is its address right?" in result.output


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
    assert [_layout.duration(s) for s in (None, 0.25, 59, 90, 7200, 200_000)] == [
        "-", "0.25 s", "59 s", "1.5 min", "2 h", "2.3 d",
    ]  # fmt: skip
    assert [_layout.size(n) for n in (0, 1023, 1536, 5 << 20, 3 << 30)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5 MiB",
        "3 GiB",
    ]
    assert _layout.local_time(10**30).endswith("ns")


def test_wide_characters_line_up_in_text_and_on_a_terminal():
    rows = [["冷凍庫", 1], ["e\u0301tage", 22], ["plain", 333]]
    shown = _layout.Table(["NAME", "COUNT"], rows)
    screen = console()
    with screen.capture() as capture:
        screen.print(_layout.Grid(shown))
    for text in (_layout.table(shown), capture.get()):
        ends = [_layout.width_of(line.rstrip()) for line in text.splitlines()]
        assert len(set(ends)) == 1, text


def test_what_the_card_takes_is_a_line_of_its_own_where_it_is_known():
    told = figures.status()
    assert not [line for line in status.describe(told) if "card:" in str(line)]
    told["log"]["wear"] = {"told": ""}
    assert not [line for line in status.describe(told) if "card:" in str(line)]
    told["log"]["wear"] = {"told": "the log writes 300 MB a day"}
    assert "card: the log writes 300 MB a day" in str(status.describe(told)[-1])
