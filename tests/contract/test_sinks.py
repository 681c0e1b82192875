"""What every sink keeps to; and what the file sink, the example for others, promises beyond that."""

import ast
import asyncio
import gzip
import inspect
import os
import threading
from pathlib import Path

import msgspec
import pytest
import yaml
import zstandard

from gateway.errors import SinkUnavailable
from gateway.formats import Format, decode, unpack
from gateway.plugin import load, names
from gateway.quantity import Duration, Size, option_hook
from gateway.record import Batch, Delivery, Extent, Gap, Receipt
from sinks.file import RECENT, File, Options, Rotate, folder_name

HOUSE_WORDS = {"sink", "streams", "batch", "format", "in_flight", "start"}  # the configuration's own, not the sink's


class ManualClock:
    def __init__(self):
        self.seconds = 1_790_000_000.0

    def now(self):
        return int(self.seconds * 1e9)

    def monotonic(self):
        return self.seconds


class FakeOutlet:
    name, gateway = "local", "g"

    def __init__(self):
        self.clock, self.states, self.counts = ManualClock(), [], {}

    def up(self, detail=""):
        self.states.append("up")

    def waiting(self, detail):
        self.states.append("waiting")

    def count(self, metric, n=1):
        assert threading.current_thread() is threading.main_thread()
        self.counts[metric] = self.counts.get(metric, 0) + n


def delivery(first, values, form="ndjson", stream="s", gaps=()):
    batch = Batch(stream, first, [first + i for i in range(len(values))], ["k"] * len(values), values)
    encoder = Format.parse(form)
    body = b"" if encoder.raw else encoder.encode([batch], gaps, gateway="g", epoch="e")
    extent = Extent(stream, first, first + len(values) - 1)
    id = f"g/e/{stream}/{extent.first}-{extent.last}"
    return Delivery(id, extent, [batch], gaps, encoder.content_type, encoder.encoding, body)


def open_file_sink(path, **options):
    outlet = FakeOutlet()
    return File(Options(path=str(path), **options), outlet), outlet


def send(sink, *deliveries):
    async def scenario():
        return [await sink.send(d) for d in deliveries]

    return asyncio.run(scenario())


def files(path, stream="s"):
    return sorted(p for p in (Path(path) / stream).iterdir() if not p.name.startswith("."))


# -- every sink --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names("sinks"))
def test_a_sink_explains_each_of_its_options_and_its_example_is_valid(name):
    plugin = load("sinks", name)
    for option in plugin.options.__struct_fields__:
        assert option in (inspect.getdoc(plugin.options) or ""), option
    example = yaml.safe_load(inspect.getmodule(plugin.options).EXAMPLE)
    assert example["sink"] == name
    own = {key: value for key, value in example.items() if key not in HOUSE_WORDS}
    msgspec.convert(own, plugin.options, dec_hook=option_hook)
    Format.parse(example.get("format", "ndjson"))


@pytest.mark.parametrize("name", names("sinks"))
def test_the_options_of_a_sink_are_strict_and_frozen(name):
    config = load("sinks", name).options.__struct_config__
    assert (config.frozen, config.forbid_unknown_fields) == (True, True)


@pytest.mark.parametrize("name", names("sinks"))
def test_a_sink_waits_for_what_it_starts(name):
    """No fire and forget: what send() began has ended when it returns."""
    tree = ast.parse(inspect.getsource(inspect.getmodule(load("sinks", name).options)))
    calls = {
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert "ensure_future" not in calls


# -- the file sink -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["ndjson", "ndjson+zstd", "ndjson+gzip"])
def test_deliveries_grow_one_file_that_ordinary_tools_read(tmp_path, form):
    sink, outlet = open_file_sink(tmp_path)
    parts = [
        delivery(i * 3, [b'{"v":1}', b"text", b"\xff"], form, gaps=[Gap("s", i * 3, i * 3, "thinned")][: i % 2])
        for i in range(4)
    ]
    assert send(sink, *parts) == [Receipt()] * 4
    (path,) = files(tmp_path)
    packed = path.read_bytes()
    assert packed == b"".join(part.body for part in parts)
    assert outlet.counts["wire_bytes_total"] == len(packed)
    items = decode(packed, "application/x-ndjson", parts[0].encoding)
    assert [item.offset for item in items if not isinstance(item, Gap)] == list(range(12))
    if form.endswith("gzip"):
        assert gzip.decompress(packed) == unpack(packed, "gzip", 1 << 20)
        assert path.name == "00000001.ndjson.gz"
    if form.endswith("zstd"):
        reader = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
        assert reader.read() == unpack(packed, "zstd", 1 << 20)


@pytest.mark.parametrize("form", ["json", "msgpack+zstd", "block"])
def test_a_format_that_cannot_be_chained_makes_a_file_per_delivery(tmp_path, form):
    sink, _ = open_file_sink(tmp_path)
    parts = [delivery(i, [b"%d" % i], form) for i in range(3)]
    send(sink, *parts)
    assert [path.read_bytes() for path in files(tmp_path)] == [part.body for part in parts]


def test_raw_payloads_are_lines(tmp_path):
    sink, _ = open_file_sink(tmp_path)
    send(sink, delivery(0, [b"$GPGGA,1", b"$GPGGA,2"], "raw"), delivery(2, [b"$GPGGA,3"], "raw"))
    assert [path.read_bytes() for path in files(tmp_path)] == [b"$GPGGA,1\n$GPGGA,2\n$GPGGA,3\n"]


@pytest.mark.parametrize("form", ["ndjson", "json"])
def test_a_delivery_that_comes_again_is_confirmed_and_not_written_again(tmp_path, form):
    first, second = delivery(0, [b"1"], form), delivery(1, [b"2"], form)
    sink, outlet = open_file_sink(tmp_path)
    send(sink, second, first, second)
    send(open_file_sink(tmp_path)[0], first, second)  # also after a restart
    assert b"".join(path.read_bytes() for path in files(tmp_path)) == second.body + first.body
    assert outlet.counts["repeated_total"] == 1


@pytest.mark.parametrize("form", ["ndjson", "ndjson+zstd", "json"])
def test_a_crash_at_any_step_leaves_each_delivery_exactly_once(tmp_path, monkeypatch, form):
    """Die at the k-th change to the disk, start again, and send what was not confirmed, for every k."""

    class Crash(BaseException):
        pass

    parts = [delivery(i, [b'{"v":%d}' % i] * 3, form) for i in range(0, 9, 3)]
    steps, k = [0], 0
    limit = [0]

    def counted(original):
        def call(*args, **kwargs):
            steps[0] += 1
            if steps[0] == limit[0]:
                raise Crash
            return original(*args, **kwargs)

        return call

    for owner, name in ((os, "fsync"), (Path, "rename"), (Path, "mkdir"), (msgspec.json, "encode")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    while True:
        k += 1
        folder = tmp_path / str(k)
        steps[0], limit[0] = 0, k
        confirmed = 0
        sink, _ = open_file_sink(folder)
        try:
            for part in parts:
                sink._write(part)
                confirmed += 1
        except Crash:
            limit[0] = 0
            for part in parts[confirmed:][:1] + parts[max(confirmed - 1, 0) :]:
                sink, _ = open_file_sink(folder)
                sink._write(part)
        else:
            break
        assert b"".join(path.read_bytes() for path in files(folder)) == b"".join(part.body for part in parts), k
    assert k > 12


def test_a_file_is_full_by_size_or_by_age(tmp_path):
    sink, outlet = open_file_sink(tmp_path, rotate=Rotate(size=Size(100), age=Duration(60)))
    line = len(delivery(0, [b"1"]).body)
    send(sink, *[delivery(i, [b"1"]) for i in range(10)])
    sizes = [path.stat().st_size for path in files(tmp_path)]
    assert all(100 <= size < 100 + line + 2 for size in sizes[:-1])
    outlet.clock.seconds += 60
    send(sink, delivery(10, [b"1"]))
    assert len(files(tmp_path)) == len(sizes) + 1


def test_only_the_newest_files_are_kept_and_the_deleted_are_counted(tmp_path):
    sink, outlet = open_file_sink(tmp_path, keep=3)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "2026-notes.txt").write_text("not ours")
    send(sink, *[delivery(i, [b"%d" % i], "json") for i in range(8)])
    assert [path.name for path in files(tmp_path)] == [
        "00000006.json",
        "00000007.json",
        "00000008.json",
        "2026-notes.txt",
    ]
    assert outlet.counts["files_removed_total"] == 5


def test_streams_do_not_share_a_file_and_no_name_leads_out_of_the_folder(tmp_path):
    sink, _ = open_file_sink(tmp_path / "out")
    for stream in ("a", "b", "_dead", "s~10s", "../x", "..", ".", "a/b"):
        send(sink, delivery(0, [b"1"], stream=stream))
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert len(list((tmp_path / "out").iterdir())) == 8
    assert folder_name("s~10s") == "s~10s"


def test_a_lost_position_costs_a_new_file_and_no_data(tmp_path):
    for damage in (b"", b"{", None):
        folder = tmp_path / str(damage)
        send(open_file_sink(folder)[0], delivery(0, [b"1"]))
        position = folder / "s" / ".position"
        position.unlink() if damage is None else position.write_bytes(damage)
        send(open_file_sink(folder)[0], delivery(1, [b"2"]))
        assert [path.read_bytes() for path in files(folder)] == [delivery(0, [b"1"]).body, delivery(1, [b"2"]).body]


def test_a_file_that_was_moved_away_is_not_missed(tmp_path):
    sink, _ = open_file_sink(tmp_path)
    send(sink, delivery(0, [b"1"]))
    files(tmp_path)[0].unlink()
    send(sink, delivery(1, [b"2"]))
    assert [path.read_bytes() for path in files(tmp_path)] == [delivery(1, [b"2"]).body]


def test_a_folder_that_cannot_be_used_is_unavailable_in_words(tmp_path):
    (tmp_path / "blocked").write_text("a file, not a folder")
    sink, outlet = open_file_sink(tmp_path / "blocked")
    with pytest.raises(SinkUnavailable, match="blocked"):
        send(sink, delivery(0, [b"1"]))
    with pytest.raises(SinkUnavailable, match="blocked"):
        asyncio.run(sink.run())
    assert outlet.states == []


def test_a_full_device_is_unavailable_and_the_retry_leaves_no_trace_of_the_attempt():
    """/dev/full answers every write with ENOSPC; here through a link in place of the next file."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "s"
        folder.mkdir()
        sink, _ = open_file_sink(name)
        send(sink, delivery(0, [b"1"], "json"))
        (folder / "00000002.json").symlink_to("/dev/full")
        with pytest.raises(SinkUnavailable):
            send(sink, delivery(1, [b"2"], "json"))
        (folder / "00000002.json").unlink()
        send(sink, delivery(1, [b"2"], "json"))
        assert [path.read_bytes() for path in files(name)] == [
            delivery(i, [b"%d" % (i + 1)], "json").body for i in (0, 1)
        ]


def test_what_is_recognised_is_bounded(tmp_path):
    sink, _ = open_file_sink(tmp_path)
    send(sink, *[delivery(i, [b"1"]) for i in range(RECENT + 10)])
    assert len(msgspec.json.decode((tmp_path / "s" / ".position").read_bytes())["ids"]) == RECENT


def test_run_says_that_it_is_up_and_stays(tmp_path):
    sink, outlet = open_file_sink(tmp_path / "deep" / "er")

    async def scenario():
        task = asyncio.create_task(sink.run())
        while not outlet.states:
            await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())
    assert (tmp_path / "deep" / "er").is_dir()
