"""What sniffing keeps of what it hears: enough for a summary, never more than its bounds."""

import asyncio
import json
from types import SimpleNamespace

import pytest
import yaml
from shaping import Event, program, run

from gateway.cli.sniff import _sentence, proposals
from gateway.clock import SystemClock
from gateway.config.model import DriverEntry
from gateway.decode import JSON, decoding
from gateway.sniff import MOST_KEYS, MOST_REASONS, SAMPLES, Findings, Kind, Listener, Seen, rate_of

NOW = 1_790_000_000_000_000_000


def seen(key, value, *, stream="s", retained=False):
    return Seen(stream, NOW, key, value, retained, None, "")


@pytest.fixture
def findings():
    return Findings({"s": JSON}, "UTC")


def test_the_pace_of_a_key_leaves_out_what_the_broker_kept(findings):
    findings.take(seen("a", b'{"v":1}', retained=True), 0.0)
    for at in (5.0, 7.0, 9.0):
        findings.take(seen("a", b'{"v":1}'), at)
    (tally,) = findings.tallies.values()
    assert (tally.count, tally.news, tally.per_s) == (4, 3, 0.5)


def test_keys_reasons_and_fields_without_end_are_bounded_and_all_records_are_counted(findings):
    for n in range(3 * MOST_KEYS):
        findings.take(seen(f"k{n}", json.dumps({f"f{n}": n}).encode()), 0.0)
        findings.take(seen(f"k{n}", b'{"x":' + b" " * n), 0.0)
    assert findings.count == 6 * MOST_KEYS
    assert len(findings.tallies) == MOST_KEYS + 1
    assert sum(tally.count for tally in findings.tallies.values()) == findings.count
    assert findings.crowded
    assert findings.undecoded == 3 * MOST_KEYS
    assert len(findings.reasons) <= MOST_REASONS
    assert len(findings.samples) == SAMPLES
    assert sum(kind.shape.payloads for kind in findings.kinds()) >= 3 * MOST_KEYS


def test_payloads_that_differ_are_kinds_of_their_own_under_the_pattern_of_their_keys(findings):
    for n in range(4):
        findings.take(seen(f"site/{n}/climate", b'{"t":1.5,"rh":4}'), 0.0)
        findings.take(seen(f"site/{n}/door", b'{"open":true}'), 0.0)
    found = {kind.pattern: kind.shape.propose().schema for kind in findings.kinds()}
    assert found == {"site/+/climate": {"t": "float", "rh": "int"}, "site/+/door": {"open": "bool"}}


def test_sentences_of_one_port_are_a_kind_by_type_each_and_what_is_proposed_reads_that_type_alone():
    position, course = "4807.038,N,01131.000,E", "147.44,T,164.31,M,0.26,N,0.49,K,D"
    sentences = [f"$GPGLL,{position},225444,A", f"$GPVTG,{course}", f"$GPRMC,123519,A,{position},22.4,84.4,230394,,"]
    findings = Findings({"s": decoding({"nmea": {"checksum": "if_there"}})}, "UTC")
    for sentence in [*sentences, "no sentence"] * 3:
        findings.take(seen("gps", sentence.encode()), 0.0)
    assert [tally.sort for tally in findings.tallies.values()] == ["GLL", "VTG", "RMC", ""]
    kinds = findings.kinds()
    assert [kind.only for kind in kinds] == [("type", "GLL"), ("type", "VTG"), ("type", "RMC")]
    assert all(not kind.endswith("?") for one in kinds for kind in one.shape.propose().schema.values())
    made = yaml.safe_load(proposals(findings)[0])  # an RMC carries all that a GLL does
    (told,) = _sentence(findings).split(", ")[1:2]
    assert told == "1 key"
    made = program(made["steps"], schema=made["schema"], decoders={"in": {"nmea": {"checksum": "if_there"}}})
    out = run(made, [Event("gps", sentence.encode()) for sentence in sentences])
    assert out.letters() == []
    assert made.stats()["filtered"] == 2


@pytest.mark.parametrize(
    ("keys", "pattern"),
    [
        (["a/b"], "a/b"),
        (["a/1/x", "a/2/x"], "a/+/x"),
        (["a/1", "a/1/x"], "a/1/#"),
        (["a", "b"], "+"),
        (["", "a"], "+"),
        (["…", "a/b"], "+/#"),
    ],
)
def test_a_pattern_stands_for_all_its_keys(keys, pattern):
    assert Kind("s", keys, None).pattern == pattern


@pytest.mark.parametrize(
    ("value", "better"),
    [
        (b"21.5", "number"),
        (b"t=1 unit=C", "keyvalue"),
        (b"weather,site=roof temp=21.5 1763899200000000000", "influx"),
        (b"ON", "text"),
        (b'{"v":1', None),
        (b"\xff\xfe", None),
    ],
)
def test_a_decoder_that_would_do_is_found(findings, value, better):
    for _ in range(10):
        assert findings.take(seen("k", value), 0.0).fields is None
    assert findings.better_decoder == better


VMSTAT = [
    "procs -----------memory---------- ---swap-- -----io----",
    " r  b   swpd   free   buff  cache   si   so    bi    bo",
    " 1  0      0 211236  93332 3174256    0    0    12    53",
    " 0  0      0 211236  93332 3174260    0    0     0    16",
    " 2  0      0 210992  93332 3174260    0    0     0     0",
]


@pytest.mark.parametrize(
    ("lines", "better", "fields"),
    [
        (["0.52 0.58 0.59 1/467 2341"] * 3, '{csv: {columns: [c1, c2, c3, c4, c5], delimiter: " "}}', {"c1": 0.52, "c5": 2341}),
        (VMSTAT, '{csv: {columns: [r, b, swpd, free, buff, cache, si, so, bi, bo], delimiter: " "}}', {"r": 2, "free": 210992}),
        (["t;on;kB/s", "21,5;1;3", "21,4;0;2"], '{csv: {columns: [t, "on", "kB/s"], delimiter: ";", decimal: comma}}', {"t": 21.4}),
        (["1,2.5", "2,2.5"], "{csv: {columns: [c1, c2]}}", {"c2": 2.5}),
        (["a b c", "d e f"], "text", {"v": "d e f"}),
        (["1 2", "1 2 3"], "text", {"v": "1 2 3"}),
        (["1 2"], "text", {"v": "1 2"}),
    ],
    ids=str,
)  # fmt: skip
def test_lines_of_numbers_are_a_table_whose_columns_are_proposed(findings, lines, better, fields):
    for line in lines:
        findings.take(seen("k", line.encode()), 0.0)
    assert findings.better_decoder == better
    again = Findings({"s": decoding(yaml.safe_load(better))}, "UTC")
    read = [again.take(seen("k", line.encode()), 0.0) for line in lines]
    assert fields.items() <= read[-1].fields.items()


@pytest.mark.parametrize(
    ("said", "payload", "fields"),
    [
        ("number", b"21.5", {"v": 21.5}),
        ("text", b" ON ", {"v": "ON"}),
        ("keyvalue", b"t=21.5 unit=C", {"t": 21.5, "unit": "C"}),
        (
            {"csv": {"columns": ["ts", "", "v", "unit"], "delimiter": ";", "decimal": "comma"}},
            b"1;x;2,5;",
            {"ts": 1, "v": 2.5},
        ),
        ({"regex": {"pattern": r"T=(?P<t>[\d.]+)(?P<unit>[CF])?"}}, b"T=21.5", {"t": 21.5}),
        (
            {"struct": {"order": "big", "layout": [{"name": "t", "type": "i16", "scale": 0.1}]}},
            b"\x00\xd7",
            {"t": 21.5},
        ),
        (
            "influx",
            b'w,site=a t=1.5,n=3i,s="x" 1763899200000000000',
            {
                "measurement": "w",
                "tags": {"site": "a"},
                "fields": {"t": 1.5, "n": 3, "s": "x"},
                "timestamp": 1_763_899_200_000_000_000,
            },
        ),
    ],
    ids=str,
)
def test_every_decoder_can_be_explored_without_a_schema(said, payload, fields):
    findings = Findings({"s": decoding(said)}, "UTC")
    assert findings.take(seen("k", payload), 0.0).fields == fields


def test_comments_are_no_readings_and_no_failures(findings):
    findings = Findings({"s": decoding("influx")}, "UTC")
    assert findings.take(seen("k", b"# hello"), 0.0).problem.startswith("no reading")
    assert (findings.undecoded, findings.no_records) == (0, 1)


class Scripted:
    """A driver that breaks in its first turns and then reads, a reading with a receipt each turn."""

    def __init__(self, options, inlet):
        self.inlet, self.left, self.acknowledged = inlet, options, []

    async def run(self):
        self.inlet.up()
        await asyncio.Event().wait()

    def turn(self):
        if self.left:
            self.left -= 1
            raise ZeroDivisionError("a defect")
        inside = True

        class Receipt:
            def arrived(self):
                assert not inside, "the driver was not done with its read"

        self.inlet.record("s", [NOW] * 4, ["k"] * 4, [b'{"v":1}'] * 4, receipt=Receipt())
        inside = False

    def acknowledge(self, receipts):
        for receipt in receipts:
            receipt.arrived()
        self.acknowledged += receipts


class Told:
    def __init__(self):
        self.seen, self.states = [], []

    def records(self, seen):
        self.seen += seen

    def state(self, state, detail):
        self.states.append((state, detail))


def test_a_defect_of_a_driver_is_told_and_it_is_started_again_and_all_is_acknowledged(findings, monkeypatch):
    monkeypatch.setattr("gateway.sniff.TURN_S", 0.01)
    monkeypatch.setattr(
        "gateway.sniff.Backoff", lambda first, most: SimpleNamespace(next=lambda: 0.05, reset=lambda: None)
    )
    entry = DriverEntry(name="d", driver="scripted", options=2, streams=("s",))
    told, built = Told(), []

    def build(options, inlet):
        built.append(Scripted(options, inlet))
        return built[0]

    listener = Listener(entry, "g", SystemClock(), findings, told, 10)
    asyncio.run(asyncio.wait_for(listener.listen(SimpleNamespace(build=build), asyncio.Event()), 20))
    assert findings.count == len(told.seen) == 10, "and not one more than were asked for"
    assert ("failed", "ZeroDivisionError: a defect") in told.states
    assert told.states[-1][0] == "up"
    assert len(built[0].acknowledged) >= 2


def test_a_pace_is_told_only_of_records_that_are_many_or_far_apart():
    assert rate_of(2, 0.003) is None
    assert rate_of(9, 0.9) is None
    assert rate_of(1, 0.0) is None
    assert rate_of(2, 4.0) == 0.25
    assert rate_of(101, 0.5) == 200
