"""`make bench`: what a message costs, as ratios to the yardstick in the same run, and the bounds of memory and time.

Each figure is the median of three. The machine's speed drifts, so the gateway and the yardstick take turns; quote the
ratios. Processor time is user and system of the whole process, from the first message to the last delivery.

usage: run.py [--quick] [SECTION ...]     sections: decode try log pipeline steps alarm forward versions memory streams wear
"""

import argparse
import functools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from load import readings

from gateway.testing import Client, Mosquitto, cpu_seconds, free_port, rss_mb

HERE = Path(__file__).parent

CONFIG = """\
gateway: {{id: bench, status: "127.0.0.1:{status}"}}
log: {{path: {folder}/log, size: 512MiB}}
drivers:
  plant: {{driver: mqtt, url: "mqtt://127.0.0.1:{near}", subscribe: ["plant/#"], stream: readings}}
pipelines:
  means:
    from: readings
    schema: {{ts: "time[s]", v: float}}
    time: {{event: ts, lateness: 1s, max_ahead: 10m}}
    steps:
      - filter: v > -50
      - window: {{tumbling: 10s, agg: {{n: count(), mean: mean(v)}}}}
    to: means
sinks:
  cloud: {{sink: mqtt, url: "mqtt://127.0.0.1:{far}", topic: "out/{{stream}}", streams: [means, readings],
          batch: {{records: 500, age: 1s}}, format: ndjson+zstd}}
"""


class Gateway:
    """The daemon in a process of its own."""

    def __init__(self, folder: Path, near: int, far: int, config: str = CONFIG) -> None:
        self.status = free_port()
        path = folder / "tidegate.yaml"
        path.write_text(config.format(status=self.status, folder=folder, near=near, far=far))
        self.log = (folder / "gateway.log").open("ab")
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "run", "--config", str(path)], stdout=self.log, stderr=self.log
        )
        self.pid = self.process.pid

    def wait_ready(self, timeout_s: float = 30) -> float:
        """Seconds from the start of the process until it is ready."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if b"ready after" in Path(self.log.name).read_bytes():
                return time.monotonic() - self.started
            if self.process.poll() is not None:
                break
            time.sleep(0.005)
        raise RuntimeError(Path(self.log.name).read_text())

    def status_json(self) -> dict:
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", self.status, timeout=5)
        connection.request("GET", "/api/v1/status")
        return json.loads(connection.getresponse().read())

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.log.close()


class Yardstick:
    def __init__(self, folder: Path, near: int, far: int) -> None:
        self.process = subprocess.Popen([sys.executable, str(HERE / "yardstick.py"), str(near), str(far), str(folder)])
        self.pid = self.process.pid

    def wait_ready(self) -> None:
        time.sleep(1.5)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


def counted(packet) -> int:
    """Readings in a message at the far broker, of either program."""
    if packet.topic == "out/yardstick":
        return packet.payload.count(b"\n") + 1
    if packet.topic == "out/readings":
        first, last = dict(packet.user_properties)["id"].rsplit("/", 1)[1].split("-")
        return int(last) - int(first) + 1
    return 0


def forward(make, in_flight: int, count: int, rate: float, extra: str = "") -> dict:
    """One run: publish, forward, count at the far side. Returns microseconds per message and memory.

    `extra`: more of the near broker's configuration.
    """
    folder = Path(tempfile.mkdtemp(prefix="tidegate-bench-"))
    with Mosquitto(folder / "near", in_flight=in_flight, extra=extra) as near, Mosquitto(folder / "far") as far:
        subject = make(folder, near.port, far.port)
        try:
            subject.wait_ready()
            time.sleep(1.0)
            idle = rss_mb(subject.pid)
            receiver = Client(far.port, "bench-receiver")
            import mqtt5

            receiver.send(
                mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("out/#", max_qos=mqtt5.QoS.AT_MOST_ONCE)]).write()
            )
            before = cpu_seconds(subject.pid)
            started = time.monotonic()
            load = subprocess.Popen([sys.executable, str(HERE / "load.py"), str(near.port), str(count), str(rate)])
            seen = size = 0
            peak = idle
            deadline = time.monotonic() + 60 + (count / rate if rate else count / 2000)
            while seen < count and time.monotonic() < deadline:
                for packet in receiver.packets(1.0):
                    if isinstance(packet, mqtt5.PublishPacket):
                        seen += counted(packet)
                        size += len(packet.payload)
                peak = max(peak, rss_mb(subject.pid))
            cpu = cpu_seconds(subject.pid) - before
            took = time.monotonic() - started
            load.wait(30)
            if seen < count:
                raise RuntimeError(f"{seen} of {count} arrived")
            return {"us": cpu / count * 1e6, "idle": idle, "peak": peak, "bytes": size / count, "per_s": count / took}
        finally:
            subject.stop()
            shutil.rmtree(folder, ignore_errors=True)


def section_forward(quick: bool) -> None:
    print("\nforward every reading as ndjson+zstd and keep a 10 s window (200 keys); us of processor time per message")
    print(
        f"{'load':28} {'gateway':>9} {'yardstick':>10} {'ratio':>7} {'bound':>6} {'MB idle':>8} {'MB peak':>8} {'B out':>6}"
    )
    runs = 1 if quick else 3
    for name, in_flight, count, rate, bound in (
        ("saturated, window 2000", 2000, 200_000, 0.0, 0.10),
        ("3,000/s, window 2000", 2000, 45_000, 3000.0, 0.10),
        ("200/s, window 2000", 2000, 4_000, 200.0, 0.20),
        ("200/s, window 20", 20, 4_000, 200.0, 0.50),
    ):
        ours, theirs = [], []
        for _ in range(runs):
            ours.append(forward(Gateway, in_flight, count, rate))
            theirs.append(forward(Yardstick, in_flight, min(count, 50_000), rate))
        us = statistics.median(run["us"] for run in ours)
        yard = statistics.median(run["us"] for run in theirs)
        ratio = statistics.median(a["us"] / b["us"] for a, b in zip(ours, theirs, strict=True))
        print(
            f"{name:28} {us:9.1f} {yard:10.1f} {ratio:7.3f} {bound:6.2f} {max(r['idle'] for r in ours):8.1f} "
            f"{max(r['peak'] for r in ours):8.1f} {ours[-1]['bytes']:6.1f}",
            flush=True,
        )


def section_versions(quick: bool) -> None:
    """The same work, read in different ways. The runs take turns."""
    web = free_port()
    ways = {
        "MQTT 5": ("mqtt://127.0.0.1:{near}", 5),
        "MQTT 3.1.1": ("mqtt://127.0.0.1:{near}", 3),
        "MQTT 5 over websockets": (f"ws://127.0.0.1:{web}", 5),
    }
    listener = f"listener {web} 127.0.0.1\nprotocol websockets\n"
    print("\nforward as above, by the way readings come in; us of processor time per message")
    for load, count, rate in (("saturated", 200_000, 0.0), ("3,000/s", 45_000, 3000.0)):
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(1 if quick else 3):
            for name, (url, version) in ways.items():
                config = CONFIG.replace('url: "mqtt://127.0.0.1:{near}"', f'url: "{url}", version: {version}')
                make = functools.partial(Gateway, config=config)
                found[name].append(forward(make, 2000, count, rate, listener)["us"])
        told = ", ".join(f"{name} {statistics.median(figures):.1f}" for name, figures in found.items())
        print(f"  {load:10} {told}", flush=True)


def section_log(quick: bool) -> None:
    """Append, commit, seal; then replay."""
    from gateway.clock import SystemClock
    from gateway.log import Keep, Log, LogOptions
    from gateway.record import Batch

    count = 300_000 if quick else 1_000_000
    folder = Path(tempfile.mkdtemp(prefix="tidegate-bench-"))
    log = Log(LogOptions(path=str(folder / "log")), SystemClock())
    log.open()
    log.declare("readings", Keep(size=None, age_s=None))
    data = list(readings(count))
    cpu = 0.0
    at = 1_790_000_000_000_000_000
    for start in range(0, count, 3000):
        part = data[start : start + 3000]
        keys, values = [k for k, _ in part], [v for _, v in part]
        before = time.process_time()
        for low in range(0, len(part), 750):  # a turn is a quarter of a second
            at += 250_000_000
            n = len(values[low : low + 750])
            log.append("readings", [at] * n, keys[low : low + 750], values[low : low + 750])
        commit = log.gather()
        log.write(commit)
        log.committed(commit)
        while log.maintenance_due:
            result = log.maintain()
            if result is None:
                break
            log.maintained(result)
        cpu += time.process_time() - before
    del data
    before, seen, offset = time.process_time(), 0, 0
    while isinstance(batch := log.read("readings", offset, 8192), Batch):
        seen += len(batch)
        offset = batch.next
    replay = time.process_time() - before
    size = log.stats()
    log.close()
    kept = sum(f.stat().st_size for f in (folder / "log").iterdir() if f.name not in ("journal", "reserve"))
    print(f"\nlog alone, {count:,} readings, 3,000 per commit")
    print(f"  append + commit + seal     {cpu / count * 1e6:6.2f} us per reading      bound 3")
    print(
        f"  kept on disk               {kept / count:6.2f} bytes per reading   bound 6.5 (without journal and reserve, of fixed size)"
    )
    print(f"  replay                     {seen / replay / 1e6:6.2f} M records per CPU second   bound 2")
    assert seen == count, (seen, count)
    del size
    shutil.rmtree(folder, ignore_errors=True)


def section_pipeline(quick: bool) -> None:
    """Decode, filter, a 10 s window over 200 keys."""
    import gc

    from gateway.derive import Outputs
    from gateway.plugin import compiler
    from gateway.record import Batch

    definition = {
        "from": "readings",
        "schema": {"ts": "time[s]", "v": "float"},
        "time": {"event": "ts", "lateness": "1s", "max_ahead": "10m"},
        "steps": [{"filter": "v > -50"}, {"window": {"tumbling": "10s", "agg": {"n": "count()", "mean": "mean(v)"}}}],
        "to": "means",
    }
    count = 200_000
    data = list(readings(count))
    batches = [
        Batch(
            "readings",
            low,
            [1_790_000_000_000_000_000 + low * 1_000_000] * 1000,
            [k for k, _ in data[low : low + 1000]],
            [v for _, v in data[low : low + 1000]],
        )
        for low in range(0, count, 1000)
    ]
    figures = []
    for _ in range(3):
        program = compiler()("means", definition, {})
        out = Outputs()
        gc.collect()
        before = time.process_time()
        for batch in batches:
            program.run(batch, out)
        figures.append((time.process_time() - before) / count * 1e6)
    rows = sum(len(columns[2]) for columns in out.columns.values())
    print(f"\npipeline alone: {statistics.median(figures):.2f} us per record, bound 1   ({rows} window rows)")


def section_decode(quick: bool) -> None:
    """One reading of three fields, written in every way there is a decoder for."""
    import msgspec

    from gateway.decode import decoding, reader

    flat = msgspec.defstruct("Flat", [("ts", int), ("v", float), ("unit", str)])
    tags, fields = msgspec.defstruct("Tags", [("unit", str)]), msgspec.defstruct("Fields", [("v", float)])
    nested = msgspec.defstruct("Nested", [("timestamp", int), ("tags", tags), ("fields", fields)])
    only_v, text = msgspec.defstruct("V", [("v", float)]), msgspec.defstruct("T", [("v", str)])
    place = msgspec.defstruct("Place", [("latitude", float), ("longitude", float), ("speed_mps", float)])
    layout = [
        {"name": "ts", "type": "u32"},
        {"name": "v", "type": "i16", "scale": 0.01},
        {"name": "unit", "type": "text", "length": 2},
    ]
    kinds = {
        "json": ("json", flat, b'{"ts":1790000000,"v":21.47,"unit":"C","seq":12345}'),
        "csv": ({"csv": {"columns": ["ts", "v", "unit", "seq"]}}, flat, b"1790000000,21.47,C,12345"),
        "csv, quoted": ({"csv": {"columns": ["ts", "v", "unit", "seq"]}}, flat, b'1790000000,21.47,"C",12345'),
        "keyvalue": ("keyvalue", flat, b"ts=1790000000 v=21.47 unit=C seq=12345"),
        "regex": (
            {"regex": {"pattern": r"(?P<ts>\d+) T=(?P<v>[-\d.]+) (?P<unit>[CF])"}},
            flat,
            b"1790000000 T=21.47 C",
        ),
        "influx": ("influx", nested, b"temp,unit=C v=21.47,seq=12345i 1790000000000000000"),
        "struct": ({"struct": {"order": "big", "layout": layout}}, flat, b"\x6a\xb1\x3b\x80\x08\x63C\0"),
        "nmea": ("nmea", place, b"$GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6A"),
        "number": ("number", only_v, b"21.47"),
        "text": ("text", text, b"ON"),
    }
    count = 20_000 if quick else 100_000
    figures: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(3):
        for name, (said, shape, payload) in kinds.items():
            read = reader(decoding(said), shape)
            before = time.process_time()
            for _ in range(count):
                read(payload)
            figures[name].append((time.process_time() - before) / count * 1e6)
    json_us = statistics.median(figures["json"])
    print("\ndecode one payload into three fields; us of processor time, and how many times that of json")
    for name, found in figures.items():
        print(f"{name:12} {statistics.median(found):6.2f} {statistics.median(found) / json_us:6.1f}")


STEPS = {
    "filter": [],
    "set": [{"set": {"f": "v * 1.8 + 32"}}],
    "deadband": [{"deadband": {"field": "v", "delta": 0.2, "heartbeat": "15m"}}],
    "deadband, all go on": [{"deadband": {"field": "v", "delta": 0.001, "heartbeat": "1s"}}],
    "throttle": [{"throttle": {"every": "10s"}}],
    "throttle, all go on": [{"throttle": {"every": "1s", "n": 1000}}],
    "dedupe": [{"dedupe": {"by": "ts", "within": "10m"}}],
    "alarm, at once": [{"alarm": {"name": "a", "raise_when": "v > 45", "to": "alarms"}}],
    "alarm, hold and clear_when": [
        {
            "alarm": {
                "name": "a",
                "raise_when": "v > 45",
                "clear_when": "v < 40",
                "hold": "2m",
                "with": ["v"],
                "to": "alarms",
            }
        }
    ],
    "route, 2 cases": [{"route": [{"when": "v > 45", "to": "high"}, {"when": "v < 5", "to": "low"}]}],
    "window": [{"window": {"tumbling": "10s", "agg": {"n": "count()", "mean": "mean(v)"}}}],
}


def section_steps(quick: bool) -> None:
    """What each step adds to a pipeline that decodes two fields and filters, over batches of 1,000."""
    import gc
    import random

    from gateway.derive import Outputs
    from gateway.plugin import compiler
    from gateway.record import Batch

    count, rng = 50_000 if quick else 200_000, random.Random(7)
    values = [rng.gauss(25, 8) for _ in range(200)]
    at, batches = 1_790_000_000_000_000_000, []
    for low in range(0, count, 1000):
        payloads = []
        for n in range(low, low + 1000):
            values[n % 200] += rng.gauss(0, 0.1)
            payloads.append(
                b'{"ts":%d,"v":%.2f,"unit":"C","seq":%d}' % ((at + n * 1_000_000) // 10**9, values[n % 200], n)
            )
        keys = [f"plant/{n % 200}/temperature" for n in range(1000)]
        batches.append(Batch("readings", low, [at + low * 1_000_000] * 1000, keys, payloads))
    schema = {"ts": "time[s]", "v": "float"}
    definition = {"from": "readings", "schema": schema, "time": {"event": "ts", "lateness": "1s"}, "to": "out"}
    costs: dict[str, list[float]] = {name: [] for name in STEPS}
    for _ in range(3 if quick else 7):
        for name, steps in STEPS.items():  # they take turns: the machine's speed drifts
            program = compiler()("p", {**definition, "steps": [{"filter": "v > -50"}, *steps]}, {})
            gc.collect()
            cost = 0.0
            for batch in batches:
                out = Outputs()
                before = time.process_time()
                program.run(batch, out)
                cost += time.process_time() - before
            costs[name].append(cost / count * 1e6)
    print(
        "\na step after `filter`, us per record; and the whole as a ratio to `filter` alone (decode, filter, send); 200 keys"
    )
    for name, runs in costs.items():
        ratio = statistics.median(cost / alone for cost, alone in zip(runs, costs["filter"], strict=True))
        print(f"  {name:28} {statistics.median(runs):6.2f}  {ratio:6.2f}")


def fill(folder: Path, count: int) -> None:
    """A log with that many readings, sealed."""
    from gateway.clock import SystemClock
    from gateway.log import Keep, Log, LogOptions

    log = Log(LogOptions(path=str(folder / "log")), SystemClock())
    log.open()
    log.declare("readings", Keep(size=None, age_s=None))
    data = list(readings(200_000))
    keys, values = [k for k, _ in data], [v for _, v in data]
    for start in range(0, count, 8192):
        low = start % 190_000
        at = 1_780_000_000_000_000_000 + start * 1_000_000
        log.append("readings", [at] * 8192, keys[low : low + 8192], values[low : low + 8192])
        commit = log.gather()
        log.write(commit)
        log.committed(commit)
        while log.maintenance_due and (result := log.maintain()) is not None:
            log.maintained(result)
    log.close()


def section_memory(quick: bool) -> None:
    """Start, idle, and saturated with a long log behind."""
    count = 1_000_000 if quick else 10_000_000
    folder = Path(tempfile.mkdtemp(prefix="tidegate-bench-"))
    config = CONFIG.replace("streams: [means, readings],", "streams: [means, readings], start: latest,")
    config = config.replace("    from: readings\n", "    from: readings\n    start: latest\n")
    with Mosquitto(folder / "near") as near, Mosquitto(folder / "far") as far:
        empty = Gateway(folder, near.port, far.port, config)
        first = empty.wait_ready()
        time.sleep(2)
        idle = rss_mb(empty.pid)
        empty.stop()
        shutil.rmtree(folder / "log")
        (folder / "gateway.log").unlink()
        subprocess.run([sys.executable, __file__, "--fill", str(folder), str(count)], check=True)
        full = Gateway(folder, near.port, far.port, config)
        ready = full.wait_ready()
        load = subprocess.Popen([sys.executable, str(HERE / "load.py"), str(near.port), "300000", "0"])
        peak = 0.0
        while load.poll() is None:
            peak = max(peak, rss_mb(full.pid))
            time.sleep(0.1)
        for _ in range(30):
            peak = max(peak, rss_mb(full.pid))
            time.sleep(0.1)
        full.stop()
    print(f"\nmemory and start, {count:,} readings in the log")
    print(f"  start to ready, empty log  {first:6.2f} s    bound 1")
    print(f"  start to ready, full log   {ready:6.2f} s    bound 1")
    print(f"  RSS idle                   {idle:6.1f} MB   bound 40")
    print(f"  RSS saturated, full log    {peak:6.1f} MB   bound 60")
    shutil.rmtree(folder, ignore_errors=True)


ALARM = """\
gateway: {{id: bench, status: "127.0.0.1:{status}"}}
log: {{path: {folder}/log, size: 512MiB}}
drivers:
  plant: {{driver: mqtt, url: "mqtt://127.0.0.1:{near}", subscribe: ["plant/#"], stream: readings}}
  doors: {{driver: mqtt, url: "mqtt://127.0.0.1:{near}", subscribe: ["door/#"], stream: doors}}
streams:
  alarms: {{priority: urgent}}
  doors: {{priority: urgent}}
pipelines:
  hot:
    from: readings
    schema: {{v: float}}
    steps:
      - filter: v > 90
    to: alarms
sinks:
  cloud: {{sink: mqtt, url: "mqtt://127.0.0.1:{far}", topic: "out/{{stream}}", streams: [alarms, doors], format: ndjson}}
"""


def section_alarm(quick: bool) -> None:
    """From the sensor's publish to the far broker's subscriber, at the default turn and commit."""
    import mqtt5

    from gateway.testing import Publisher

    times: dict[str, list[float]] = {"out/alarms": [], "out/doors": []}
    folder = Path(tempfile.mkdtemp(prefix="tidegate-bench-"))
    with Mosquitto(folder / "near") as near, Mosquitto(folder / "far") as far:
        gateway = Gateway(folder, near.port, far.port, ALARM)
        gateway.wait_ready()
        time.sleep(1)
        receiver = Client(far.port, "bench-receiver")
        receiver.send(mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("out/#", max_qos=mqtt5.QoS.AT_MOST_ONCE)]).write())
        receiver.packet()
        publisher = Publisher(near.port)
        for n in range(40 if quick else 120):
            for topic, arrives in (("plant/1/temperature", "out/alarms"), ("door/1", "out/doors")):
                sent = time.monotonic()
                publisher.publish([(topic, b'{"v":99.5,"n":%d}' % n)])
                while True:
                    packet = receiver.packet()
                    if isinstance(packet, mqtt5.PublishPacket) and packet.topic == arrives:
                        break
                times[arrives].append(time.monotonic() - sent)
                time.sleep(0.03 + (n * 0.037) % 0.25)
        gateway.stop()
    print("\nfrom a sensor's publish to a subscriber of the far broker, p50 and p95")
    for name, arrives, bound in (
        ("raises an urgent alarm", "out/alarms", 350),
        ("feeds an urgent stream", "out/doors", 100),
    ):
        figures = sorted(times[arrives])
        p95 = figures[int(len(figures) * 0.95)]
        print(f"  {name:26} {figures[len(figures) // 2] * 1e3:6.0f} ms {p95 * 1e3:6.0f} ms   bound {bound}")
    shutil.rmtree(folder, ignore_errors=True)


STREAMS = """\
gateway: {{id: bench, status: "127.0.0.1:{status}"}}
log: {{path: {folder}/log, size: 512MiB}}
drivers:
  plant: {{driver: mqtt, url: "mqtt://127.0.0.1:{near}", stream: other, subscribe: [SUBSCRIBE]}}
"""


def section_streams(quick: bool) -> None:
    """A hundred streams, three of them fast: what reaches the device, how blocks come out, and a recovery."""
    import random

    from gateway.testing import publish

    seconds = 60 if quick else 300
    base = Path(tempfile.mkdtemp(prefix="tidegate-bench-"))
    with Device(base / "disk") as device, Mosquitto(base / "near") as near:
        filters = ", ".join(f'{{{{filter: "s/{n}", stream: s{n:02d}}}}}' for n in range(100))
        folder = device.folder
        gateway = Gateway(folder, near.port, 0, STREAMS.replace("SUBSCRIBE", filters))
        gateway.wait_ready()
        time.sleep(1)
        rng = random.Random(5)

        def plan():
            for sequence in range(seconds * 1000):
                n = rng.randrange(3) if rng.random() < 0.97 else rng.randrange(3, 100)
                yield (
                    f"s/{n}",
                    b'{"ts":%d,"v":%.2f,"unit":"C","seq":%d}' % (1_790_000_000 + sequence, rng.gauss(20, 1), sequence),
                )

        before, cpu = device.bytes_written(), cpu_seconds(gateway.pid)
        count = publish(near.port, plan(), 1000.0)
        time.sleep(2)
        cpu = cpu_seconds(gateway.pid) - cpu
        written = device.bytes_written() - before
        memory = rss_mb(gateway.pid)
        streams = gateway.status_json()["streams"]
        gateway.process.kill()
        gateway.process.wait()
        gateway.log.close()  # it lies on the device, which could not be unmounted otherwise
        (folder / "gateway.log").unlink()
        again = Gateway(folder, near.port, 0, STREAMS.replace("SUBSCRIBE", filters))
        ready = again.wait_ready()
        kept = sum(stream["next"] for stream in again.status_json()["streams"])
        again.stop()
        blocks = sorted(stream["blocks"] for stream in streams if stream["name"] != "_dead")
    print(
        f"\n100 streams, 3 of them fast, 1,000/s for {seconds} s ({'loop device, ext4' if device.exact else 'no loop device: not measured'})"
    )
    print(f"  on the device              {written / count:6.1f} bytes per reading ({written / 1e6:.1f} MB)")
    print(f"  blocks per stream          min {blocks[0]}, median {blocks[len(blocks) // 2]}, max {blocks[-1]}")
    print(f"  RSS                        {memory:6.1f} MB;  {cpu / count * 1e6:.1f} us per reading")
    print(f"  kill -9 to ready           {ready:6.2f} s;  {kept - count} of {count} readings missing after it")
    shutil.rmtree(base, ignore_errors=True)


class Device:
    """A loop device with ext4, so that what reaches a device can be counted; a plain folder where that is not allowed."""

    def __init__(self, folder: Path) -> None:
        self.base, self.folder, self.exact, self._loop = folder, folder / "mount", False, ""

    def __enter__(self) -> "Device":
        self.folder.mkdir(parents=True)
        image = self.base / "image"
        with image.open("wb") as file:
            file.truncate(2 << 30)
        try:
            at_once = "lazy_itable_init=0,lazy_journal_init=0"  # else the kernel writes its tables while we count
            subprocess.run(["mkfs.ext4", "-q", "-F", "-E", at_once, str(image)], check=True, capture_output=True)
            found = subprocess.run(["losetup", "--show", "-f", str(image)], check=True, capture_output=True, text=True)
            self._loop = found.stdout.strip()
            subprocess.run(["mount", self._loop, str(self.folder)], check=True, capture_output=True)
            self.exact = True
        except (OSError, subprocess.CalledProcessError):
            if self._loop:
                subprocess.run(["losetup", "-d", self._loop], check=False)
        return self

    def bytes_written(self) -> int:
        """Sectors of 512 bytes that the device took, synced first."""
        if not self.exact:
            return 0
        subprocess.run(["sync", "-f", str(self.folder)], check=True)
        return int(Path(f"/sys/block/{Path(self._loop).name}/stat").read_text().split()[6]) * 512

    def __exit__(self, *error: object) -> None:
        if self.exact:
            subprocess.run(["umount", str(self.folder)], check=False)
            subprocess.run(["losetup", "-d", self._loop], check=False)


def section_wear(quick: bool) -> None:
    """What each setting costs the card: the log itself, on a device of its own, in the time of a clock that a hand turns."""
    base = Path(tempfile.mkdtemp(prefix="tidegate-bench-"))
    hours = 1.0 if quick else 3.0
    settings: list[tuple[str, float, str | None]] = [
        *(
            (text, seconds, None)
            for text, seconds in (("250ms", 0.25), ("1s", 1.0), ("2s", 2.0), ("5s", 5.0), ("10s", 10.0))
        ),
        *(("1s", 1.0, budget) for budget in ("300MB/day", "100MB/day")),
    ]
    print("\nwhat each setting costs, bytes a day; one stream, no sink, 54-byte readings of 200 keys")
    print("  readings/s  commit  wear         device takes    log's own figure   commits/h   at the end every")
    for rate in (10, 1000):
        for text, commit_s, budget in settings:
            with Device(base / f"{rate}-{text}-{(budget or 'none').replace('/', '-')}") as device:
                # 1,000/s costs the same every minute; at 10/s it takes hours until blocks are sealed and budgets settle
                counted_s = (hours if rate == 10 else hours / 20) * 3600
                before_s = 600 if budget is None else 3 * counted_s  # in the first minutes the reserve is made
                taken, own, commits, wait = worn(device, rate, commit_s, budget, before_s, counted_s)
            mega = f"{taken / 1e6:7.0f} MB" if device.exact else "not measured"
            print(
                f"  {rate:10,}  {text:>6}  {budget or '-':10}  {mega:>13}  {own / 1e6:14.0f} MB   {commits:9,.0f}   {wait:5.1f} s"
            )
    shutil.rmtree(base, ignore_errors=True)


def worn(
    device: "Device", rate: int, commit_s: float, budget: str | None, before_s: float, counted_s: float
) -> tuple[float, float, float, float]:
    """Record for a while, and then for `counted_s`. Of the latter: bytes per day on the device and as the log has it,
    commits per hour, and how long a commit waits at the end.
    """
    from gateway.history import STEP_S
    from gateway.intake import WORTH
    from gateway.log import Keep, Log, LogOptions
    from gateway.quantity import Rate
    from gateway.wear import Budget

    class HandClock:
        at = 1_767_225_600_000_000_000

        def now(self) -> int:
            return self.at

        def monotonic(self) -> float:
            return self.at / 1e9

    clock = HandClock()
    log = Log(LogOptions(path=str(device.folder / "log")), clock)
    log.open()
    log.declare("readings", Keep())
    pace = Budget(Rate.parse(budget) if budget else None, commit_s, 10.0)
    data = list(readings(200_000, start=clock.at / 1e9, rate=rate))
    start, at, sampled, own, ratio = clock.monotonic(), 0, clock.monotonic(), 0.0, 0.2
    committed, mark = start, None
    while (now := clock.monotonic()) - start < before_s + counted_s:
        if mark is None and now - start >= before_s:
            mark = device.bytes_written(), log.stats()["device_bytes"], log.stats()["commits"]
        clock.at += 250_000_000  # a turn
        count = int((now + 0.25 - start) * rate) - int((now - start) * rate)
        if count:
            part = [data[(at + n) % len(data)] for n in range(count)]
            at += count
            log.append("readings", [clock.at] * count, [key for key, _ in part], [value for _, value in part])
        full = log.pending_bytes * ratio >= WORTH
        if log.pending_bytes and (full or clock.monotonic() - committed >= pace.commit_s - 1e-6):
            committed, raw = clock.monotonic(), log.pending_bytes
            commit = log.gather({} if log.turnover_due else None)
            log.write(commit)
            log.committed(commit)
            if raw > WORTH:
                ratio = 0.8 * ratio + 0.2 * commit.size / raw
        while log.maintenance_due and (result := log.maintain()) is not None:
            log.maintained(result)
        if clock.monotonic() - sampled >= STEP_S:
            total = log.stats()["device_bytes"]
            pace.spent(total - own, clock.monotonic() - sampled)
            own, sampled = total, clock.monotonic()
    assert mark is not None
    figures = log.stats()
    taken, ours = device.bytes_written() - mark[0], figures["device_bytes"] - mark[1]
    log.close()
    days = counted_s / 86400
    return taken / days, ours / days, (figures["commits"] - mark[2]) / counted_s * 3600, pace.commit_s


TRY = """\
gateway: {{id: bench, status: null}}
log: {{path: {folder}/log, size: 2GiB}}
drivers:
  plant: {{driver: simulated, stream: readings}}
pipelines:
  means:
    from: readings
    schema: {{ts: "time[s]", v: float}}
    time: {{event: ts, lateness: 1s, max_ahead: 10m}}
    steps:
      - filter: v > {limit}
      - window: {{tumbling: 10s, agg: {{n: count(), mean: mean(v)}}}}
    to: means
  copies:
    from: readings
    schema: {{v: float}}
    steps: [filter: v > {limit}]
    to: copies
"""


def section_try(quick: bool) -> None:
    """An hour at 1,000/s, recorded with its pipelines; then one of them, as it is and edited, over all of it."""
    import os

    count = 360_000 if quick else 3_600_000
    base = Path(tempfile.mkdtemp(prefix="tidegate-bench-"))
    for name, limit in (("same", -50), ("edited", 20)):
        (base / f"{name}.yaml").write_text(TRY.format(folder=base, limit=limit))
    subprocess.run([sys.executable, __file__, "--live", str(base / "same.yaml"), str(count)], check=True)
    print(f"\ntidegate try over {count:,} recorded readings, 200 keys; seconds, peak RSS, and what it says")
    for pipeline in ("means", "copies"):
        for name in ("same", "edited"):
            command = ["-m", "gateway", "try", pipeline, "--since", "2026-01-01T00:00:00Z", "--json"]
            started = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, *command, "-c", str(base / f"{name}.yaml")], stdout=subprocess.PIPE
            )
            assert process.stdout is not None
            answer = json.loads(process.stdout.read())
            _, _, usage = os.wait4(process.pid, 0)
            took = time.monotonic() - started
            (output,) = answer["outputs"]
            told = ", ".join(f"{output[what]:,} {what}" for what in ("same", "changed", "added", "missing"))
            print(
                f"  {pipeline}, {name:7} {took:6.2f} s  {usage.ru_maxrss / 1024:6.1f} MB  "
                f"{count / took / 1e3:5.0f} k/s   {told}"
            )
            assert answer["inputs"][0]["records"] == count
            assert name == "edited" or output["same"] == output["recorded"] == output["records"], output
    shutil.rmtree(base, ignore_errors=True)


def live(config: Path, count: int) -> None:
    """Record readings at 1,000/s of a clock that a hand turns, with the pipelines of a configuration."""
    from gateway.config import load
    from gateway.deadletters import DeadLetters
    from gateway.health import Board
    from gateway.log import Keep, Log, LogOptions
    from gateway.metrics import Metrics
    from gateway.shaper import Shaper

    class HandClock:
        at = 1_767_225_600_000_000_000

        def now(self) -> int:
            return self.at

        def monotonic(self) -> float:
            return self.at / 1e9

    told, clock = load(config), HandClock()
    log = Log(LogOptions(path=told.log.path, size=told.log.size), clock)
    recovery = log.open()
    for stream in told.streams:
        log.declare(stream, Keep())
    letters = DeadLetters(log, clock, Metrics())
    shaper = Shaper(
        [entry.program for entry in told.pipelines.values()],
        log,
        clock,
        Metrics(),
        Board(clock),
        urgent=frozenset(),
        read_ahead=lambda stream, first, arrived: arrived(log.read(stream, first, 8192)),
        urgent_news=lambda: None,
        letters=letters,
    )
    snapshots = shaper.recover(recovery)
    data = list(readings(200_000, start=clock.at / 1e9))
    for second in range(count // 1000):
        clock.at += 1_000_000_000
        part = data[second % 200 * 1000 : second % 200 * 1000 + 1000]
        # The generator's times go round; what arrives is stamped anew.
        values = [
            b'{"ts":%d.%03d,%b' % (clock.at // 10**9 - 1, n, v[v.index(b',"v"') + 1 :]) for n, (_, v) in enumerate(part)
        ]
        log.append("readings", [clock.at] * 1000, [key for key, _ in part], values)
        while shaper.shape():
            pass
        while shaper.close(clock.now()):
            pass
        commit = log.gather(snapshots or (shaper.snapshots() if log.turnover_due else None))
        snapshots = {}
        log.write(commit)
        log.committed(commit)
        while log.maintenance_due and (result := log.maintain()) is not None:
            log.maintained(result)
    log.close()


SECTIONS = {
    "decode": section_decode,
    "streams": section_streams,
    "wear": section_wear,
    "log": section_log,
    "pipeline": section_pipeline,
    "steps": section_steps,
    "memory": section_memory,
    "try": section_try,
    "alarm": section_alarm,
    "forward": section_forward,
    "versions": section_versions,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one run instead of three, smaller logs")
    parser.add_argument("--fill", nargs=2, metavar=("FOLDER", "COUNT"), help=argparse.SUPPRESS)
    parser.add_argument("--live", nargs=2, metavar=("CONFIG", "COUNT"), help=argparse.SUPPRESS)
    parser.add_argument("sections", nargs="*", help="; ".join(SECTIONS))
    arguments = parser.parse_args()
    if arguments.fill:
        fill(Path(arguments.fill[0]), int(arguments.fill[1]))
    elif arguments.live:
        live(Path(arguments.live[0]), int(arguments.live[1]))
    else:
        if unknown := set(arguments.sections) - set(SECTIONS):
            parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
        for section in arguments.sections or SECTIONS:
            SECTIONS[section](arguments.quick)
