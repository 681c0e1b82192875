"""The picture that `tidegate top` draws: it fits whatever terminal there is, and says what matters first."""

import figures
import pytest
from rich.console import Console

from gateway.cli import top
from gateway.cli._layout import Table, sparkline


def picture(**changes):
    made = top.Picture(figures.status(**changes))
    made.series, made.dead = figures.history()["series"], figures.dead()
    return made


def drawn(made, width, height):
    screen = Console(width=width, height=height, markup=False, emoji=False, highlight=False)
    with screen.capture() as capture:
        screen.print(top.Screen(made))
    return capture.get().splitlines()


@pytest.mark.parametrize("size", [(80, 24), (60, 20), (132, 43), (200, 60), (40, 12)])
def test_it_fits_the_terminal(size):
    many = figures.status()
    many["streams"] = [{**many["streams"][0], "name": f"stream-{i}"} for i in range(100)]
    many["sinks"] = [{**many["sinks"][0], "name": "s" * 60, "detail": "why " * 50} for i in range(9)]
    for status in (figures.status(), many):
        lines = drawn(picture(**status), *size)
        assert len(lines) <= size[1]
        assert max(map(len, lines)) <= size[0]


def test_at_80_by_24_every_part_is_there():
    lines = drawn(picture(), 80, 24)
    for word in ("SINK", "DRIVER", "PIPELINE", "STREAM", "DEAD LETTER", "Connection refused", "48,210", "12 min"):
        assert any(word in line for line in lines), word
    assert lines[0].endswith("live")
    assert lines[-1].startswith("log 1 MiB of 2 GiB, room for 9 d; a power cut now would take 12 records")


def test_what_is_not_shown_is_counted_in_the_head():
    table = Table(["PART"], [[n] for n in range(10)])
    cut = top.fitted([table, Table(["NONE"], []), table], 9)
    assert [(each.head[0], len(each.rows)) for each in cut] == [("PART +6", 4), ("PART +7", 3)]
    assert top.fitted([table, table], 2) == [table._replace(head=["PART +9"], rows=[[0]])]
    assert top.fitted([table], 1) == []


def test_parts_in_trouble_come_first():
    status = figures.status()
    status["sinks"] = [
        {**status["sinks"][0], "name": name, "state": "up", "lag": lag} for name, lag in (("a", 0), ("b", 5))
    ]
    status["sinks"].append({**status["sinks"][0], "name": "c", "state": "waiting"})
    sinks = top.tables(picture(**status))[0]
    assert [row[0] for row in sinks.rows] == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("values", "curve"),
    [
        ([], "    "),
        ([None, None], "    "),
        ([None, 0, 0], "  ▁▁"),
        ([1, None, 8, 4], "▂ █▅"),
        ([0, 8, 8, 0, 0, 0, 0, 4], "██▁▅"),
    ],
)
def test_a_curve_shows_what_is_known_and_leaves_out_what_is_not(values, curve):
    assert sparkline(values, 4) == curve


def test_while_the_gateway_is_away_it_says_since_when_and_why():
    made = picture()
    made.trouble = "nothing answers at \x1b[2J"
    lines = drawn(made, 80, 24)
    assert "as of " in lines[0]
    assert lines[2] == "reconnecting: nothing answers at \\x1b[2J"
    assert len(lines) <= 24


def test_events_move_the_picture_on():
    made = picture()
    made.take(None, "history", {"until": 1, "values": {"in": 99.0, "lag:new": 1}})
    assert made.series["in"][-1] == 99.0
    assert len(made.series["in"]) == 360
    assert made.series["out"][-1] is None
    assert made.series["lag:new"] == [1]
    made.trouble = "away"
    made.take(None, "status", figures.status(sentence="Everything delivered"))
    assert (made.trouble, made.status["sentence"]) == ("", "Everything delivered")
