"""`tidegate tail` against a real status server: the newest, then all that comes, nothing left out silently."""

import json

import pytest
from click.testing import CliRunner
from status_rig import Server

from gateway.cli import tail
from gateway.cli._client import Client
from gateway.cli.tail import Tail
from gateway.record import Gap, Record


@pytest.fixture(scope="module")
def shared():
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def gateway(shared):
    shared.source.__init__()
    shared.source.items = [Record(i, i * 10**9, f"k{i % 3}", b"%d" % i) for i in range(2600)]
    shared.source.large = [Record(i, (2590 + i) * 10**9 + 5, "w", b"1") for i in range(10)]
    return shared


@pytest.fixture
def newest(gateway):
    def newest(*args):
        result = CliRunner().invoke(tail.command, [*args, "--no-follow", "--url", f"http://127.0.0.1:{gateway.port}"])
        assert result.exit_code == 0, result.output
        return result.stdout.splitlines()

    return newest


def values(seen):
    return [(one.stream, one.item.get("v", one.item.get("gap"))) for one in seen]


def following(gateway, *streams, key=None):
    tail = Tail(Client.of("", f"http://127.0.0.1:{gateway.port}"), streams, key)
    tail.newest(0)
    return tail


def test_it_begins_with_the_newest_records_oldest_first(newest):
    lines = newest("boiler", "-n", "3")
    assert [line.split()[-2:] for line in lines] == [["k2", "2597"], ["k0", "2598"], ["k1", "2599"]]
    assert newest("boiler", "-n", "0") == []
    assert len(newest("boiler")) == 10


def test_it_begins_where_it_is_told(newest):
    lines = newest("boiler", "--since", "1970-01-01T00:00:00.002597+00:00")
    assert [line.split()[-1] for line in lines] == ["2597", "2598", "2599"]
    assert newest("boiler", "--since", "1h") == []


def test_a_beginning_that_is_told_twice_or_not_understood_is_usage(gateway):
    for args, says in ((["-n", "3", "--since", "1h"], "write one of them"), (["--since", "1"], "how long ago (1h)")):
        result = CliRunner().invoke(tail.command, ["boiler", *args, "--url", f"http://127.0.0.1:{gateway.port}"])
        assert (result.exit_code, says in result.output) == (2, True)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--key", "none"], "-- nothing of boiler with a key like 'none' yet; waiting for news, ctrl-c ends it\n"),
        (["--since", "1h"], "-- nothing of boiler since 1h; waiting for news, ctrl-c ends it\n"),
        (["-n", "1"], ""),
    ],
)
def test_that_it_waits_is_said_where_there_is_nothing_to_show(gateway, monkeypatch, args, says):
    def ctrl_c(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tail.time, "sleep", ctrl_c)
    result = CliRunner().invoke(tail.command, ["boiler", *args, "--url", f"http://127.0.0.1:{gateway.port}"])
    assert (result.exit_code, result.stderr) == (0, says)


def test_several_streams_are_told_apart_and_merged_by_time(newest):
    lines = newest("boiler", "large", "-n", "2")
    assert [(line.split()[0], line.split()[-1]) for line in lines] == [
        ("boiler", "2598"), ("large", "1"), ("boiler", "2599"), ("large", "1"),
    ]  # fmt: skip
    assert json.loads(newest("boiler", "large", "-n", "1", "--json")[0]) == {
        "s": "boiler", "o": 2599, "t": 2599 * 10**9, "k": "k1", "v": 2599,
    }  # fmt: skip


def test_a_key_is_searched_among_the_newest_as_far_back_as_needed(gateway, newest, monkeypatch):
    monkeypatch.setattr(gateway.source, "streams", lambda: {"streams": [{"name": "boiler", "first": 0, "next": 2600}]})
    assert [line.split()[-1] for line in newest("boiler", "-n", "3", "--key", "*1")] == ["2593", "2596", "2599"]
    gateway.source.items = [Record(i, i, "rare" if i in (7, 1300) else "k", b"%d" % i) for i in range(2600)]
    assert [line.split()[-1] for line in newest("boiler", "--key", "ra?e")] == ["7", "1300"]
    assert newest("boiler", "--key", "none") == []


def test_what_comes_is_shown_once_and_in_order_with_its_gaps(gateway):
    live = following(gateway, "boiler", "large")
    assert live.news() == []
    gateway.source.items = [
        *gateway.source.items, Record(2600, 9000 * 10**9, "k", b'"a"'), Gap("boiler", 2601, 2700, "damaged"),
        Record(2701, 9002 * 10**9, "k", b'"b"'),
    ]  # fmt: skip
    gateway.source.large = [*gateway.source.large, Record(10, 9001 * 10**9, "k", b'"w"')]
    seen = live.news()
    assert values(seen) == [("boiler", "a"), ("boiler", [2601, 2700]), ("large", "w"), ("boiler", "b")]
    assert "-- 100 records gone for ever (damaged)" in tail.describe(seen[1], 6, 0)
    assert live.news() == []


def test_a_flood_is_cut_with_the_command_that_shows_it(gateway, capsys):
    live = following(gateway, "boiler")
    gateway.source.items = [Record(i, i, "k", b"1") for i in range(20_000)]
    seen = live.news()
    assert [seen[0].item["o"], seen[-1].item["o"], len(seen)] == [15_000, 19_999, 5000]
    told = capsys.readouterr().err
    assert "12,400 records of boiler came too fast" in told
    assert "tidegate read boiler --from 2600 --until 15000" in told


def test_an_unknown_stream_is_refused_with_those_there_are(gateway):
    result = CliRunner().invoke(tail.command, ["boilr", "--url", f"http://127.0.0.1:{gateway.port}"])
    assert result.exit_code == 1
    assert "no stream is called 'boilr'; there are: boiler, large" in result.output


def test_nothing_reaches_the_terminal_unescaped(gateway, newest):
    gateway.source.items = [Record(50, 0, "a\x1b]0;x\x07\n", "text \x1b[2J \x9b [red]".encode())]
    (line,) = newest("boiler")
    assert line.endswith("a\\x1b]0;x\\x07\\n  text \\x1b[2J \\x9b [red]")


def test_json_holds_no_control_character_of_any_kind(gateway, newest):
    gateway.source.items = [Record(50, 0, "a\x9b", b'"\xc2\x9b31m\xc2\x85"')]
    for streams in (["boiler"], ["boiler", "large"]):
        lines = newest(*streams, "--json", "-n", "1")
        assert all(line.isprintable() for line in lines)
        assert "\x9b31m\x85" in [json.loads(line)["v"] for line in lines]
