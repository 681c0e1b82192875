"""`tidegate demo`: simulated sensors through two real brokers: a cut link, a kill -9, an alarm, and a count at the end.

It runs the gateway as its user would: a configuration file, `tidegate run` in a process of its own, a real mosquitto on
each side. Everything lives in one folder that is removed at the end. What is counted is what the receiver holds.
"""

import contextlib
import http.client
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from gateway.cli._stage import Lines, Picture, Scene, Stage
from gateway.record import Record

if TYPE_CHECKING:
    from gateway.testing import Received

SENSORS, RATE, SECONDS, LEAST_S = 40, 400.0, 36.0, 10.0
READY_S = 15.0
REST_S = 40.0  # what the rest gets to arrive
LOOK_S = 0.5  # between two looks at the gateway's status

# When what happens, as parts of the time that the sensors send.
HOT, COOL, CUT, KILL, HOT_AGAIN, BACK = 0.1, 0.16, 0.2, 0.4, 0.5, 0.58

ALARMS = ["raised", "cleared", "raised"]

CONFIG = """\
gateway: {{id: demo, status: "127.0.0.1:{status}"}}
log: {{path: {log}, size: 64MiB}}
drivers:
  sensors: {{driver: mqtt, url: "mqtt://127.0.0.1:{near}", subscribe: ["sim/#"], stream: readings}}
  furnace: {{driver: mqtt, url: "mqtt://127.0.0.1:{near}", subscribe: ["furnace/#"], stream: furnace}}
streams:
  furnace: {{priority: urgent}}
  alarms: {{priority: urgent}}
pipelines:
  means:
    from: readings
    schema: {{ts: "time[s]", v: float}}
    time: {{event: ts, lateness: 2s, max_ahead: 1h}}
    steps:
      - window: {{tumbling: 5s, agg: {{n: count(), mean: mean(v), peak: max(v)}}}}
    to: means
  overheat:
    from: furnace
    schema: {{v: float}}
    steps:
      - alarm: {{name: overheat, raise_when: v > 900, clear_when: v < 800, with: [v], to: alarms}}
    to: furnace-seen
sinks:
  cloud:
    sink: mqtt
    url: mqtt://127.0.0.1:{far}
    topic: "gw/{{gateway}}/{{stream}}"
    streams: [alarms, means, readings]
    batch: {{records: 500, age: 2s}}
    format: ndjson+zstd
"""


class Raised(NamedTuple):
    """An alarm, as whoever raised it knows it."""

    at: float  # monotonic s
    made: int  # readings that there were before it
    linked: bool  # was the link to the cloud whole


class Story:
    """The actors and what happens to them. `run` tells it and says whether the count is right."""

    def __init__(self, folder: Path, seconds: float, stage: Stage) -> None:
        from gateway.testing import Mosquitto, Receiver, free_port

        self.folder, self.seconds, self.stage = folder, seconds, stage
        self.near, self.far = Mosquitto(folder / "near"), Mosquitto(folder / "far")
        self.status = free_port()
        self.receiver: Receiver = Receiver(self.far.port)
        self.table: list[tuple[str, int, str]] = []  # the count, when it is done
        self.linked = True
        self._back_at = 0.0  # monotonic s
        self._detail = ""  # what the gateway says of the cloud
        self._next_try = 0.0  # monotonic s: when it connects again, as far as it says so
        self._raised: list[Raised] = []  # alarms that are not at the cloud yet
        self._gateway: subprocess.Popen[bytes] | None = None
        self._told: dict[str, Any] = {}  # the gateway's status
        self._looked = 0.0
        self._epoch = round(time.time(), 3)  # s since 1970 of the first reading
        self._made = 0  # readings handed to the broker
        self._sending = True
        self._received: Counter[str] = Counter()  # records per stream
        self._wire_bytes = 0

    # -- the gateway ---------------------------------------------------------------------------------------------------

    def start_gateway(self) -> None:
        config = self.folder / "tidegate.yaml"
        config.write_text(
            CONFIG.format(status=self.status, log=self.folder / "log", near=self.near.port, far=self.far.port)
        )
        with (self.folder / "gateway.log").open("ab") as log:
            self._gateway = subprocess.Popen(
                [sys.executable, "-m", "gateway", "run", "--config", str(config)], stdout=log, stderr=log
            )

    def stop_gateway(self) -> None:
        if self._gateway is not None and self._gateway.poll() is None:
            self._gateway.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._gateway.wait(15)
            if self._gateway.poll() is None:
                self._gateway.kill()

    def _kill_and_start(self) -> None:
        assert self._gateway is not None
        self._gateway.send_signal(signal.SIGKILL)
        self._gateway.wait()
        self.start_gateway()

    def _get(self, path: str) -> bytes | None:
        """What the gateway answers; None where it does not, or not well."""
        connection = http.client.HTTPConnection("127.0.0.1", self.status, timeout=2)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.read() if answer.status == http.client.OK else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + READY_S
        while self._get("/readyz") is None:
            if time.monotonic() > until:
                raise click.ClickException("the gateway did not become ready; see gateway.log in its folder (--keep)")
            time.sleep(0.1)

    # -- the story -----------------------------------------------------------------------------------------------------

    def run(self) -> bool:
        """The whole story; True if everything arrived exactly once."""
        tell = self.stage.tell
        self.near.start()
        self.far.start()
        tell(f"two brokers are up, on ports {self.near.port} (sensors) and {self.far.port} (cloud)")
        self.receiver.connect()
        self.start_gateway()
        self._wait_until_ready()
        tell(f"the gateway is ready; to watch it, open http://127.0.0.1:{self.status}/ in a browser", "strong")
        sender = threading.Thread(target=self._send, name="sensors", daemon=True)
        sender.start()
        tell(f"{SENSORS} simulated sensors send {RATE:.0f} readings a second")
        self._play()
        while sender.is_alive():
            self._look(0.2)
        self._sending = False
        tell(f"the sensors have stopped after {self._made:,} readings; waiting for the rest")
        until = time.monotonic() + REST_S
        while time.monotonic() < until and (
            self._received["readings"] < self._made or self._received["alarms"] < len(ALARMS)
        ):
            self._look(0.2)
        return self.count()

    def _play(self) -> None:
        """Let everything happen at its time."""
        begun = time.monotonic()
        steps: list[tuple[float, str, str, Callable[[], None]]] = [
            (HOT, "the furnace overheats", "attention", self._overheat),
            (COOL, "the furnace cools down", "", lambda: self._furnace(700)),
            (CUT, "the link to the cloud is cut", "trouble", self._cut),
            (KILL, "kill -9 of the gateway, and a new start", "trouble", self._kill_and_start),
            (HOT_AGAIN, "the furnace overheats again, while the link is cut", "attention", self._overheat),
            (BACK, "the link is back", "ok", self._mend),
        ]
        for part, what, tone, act in steps:
            while time.monotonic() - begun < part * self.seconds:
                self._look(0.1)
            self.stage.tell(what, tone)
            act()

    def _cut(self) -> None:
        self.linked = False
        self.far.stop()

    def _mend(self) -> None:
        self.far.start()
        self.linked, self._back_at = True, time.monotonic()

    def _overheat(self) -> None:
        self._raised.append(Raised(time.monotonic(), self._made, self.linked))
        self._furnace(950)

    def _furnace(self, degrees: int) -> None:
        from gateway.testing import Publisher

        publisher = Publisher(self.near.port, "furnace")
        publisher.publish([("furnace/temp", b'{"v":%d}' % degrees)])
        publisher.close()

    def _send(self) -> None:
        """Send the fleet's readings to the near broker at their rate."""
        self._publish(self._counted(islice(self._fleet(), int(RATE * self.seconds))))

    def _publish(self, readings: Iterator[tuple[str, bytes]]) -> None:
        from gateway.testing import publish

        with contextlib.suppress(OSError):  # ctrl-c ends the broker too; what was not sent, the count will miss
            publish(self.near.port, readings, RATE)

    def _counted(self, readings: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
        for reading in readings:
            self._made += 1
            yield reading

    def _look(self, timeout_s: float) -> None:
        """Take what arrives at the cloud, tell of alarms, and show how things stand."""
        known = len(self.receiver.batches)
        self.receiver.collect(timeout_s)
        for batch in islice(self.receiver.batches.values(), known, None):
            self._arrived(batch)
        if time.monotonic() - self._looked >= LOOK_S:
            self._looked = time.monotonic()
            body = self._get("/api/v1/status")
            self._told = json.loads(body) if body is not None else {}
            if self._told:
                self._note_next_try(self._told["sinks"][0]["detail"])
        told = self._told
        self.stage.show(
            Scene(
                made=self._made,
                rate=RATE if self._sending else 0.0,
                level=told.get("level", "trouble"),
                sentence=told.get("sentence", "the gateway does not answer"),
                waiting=sum(sink["lag"] for sink in told["sinks"]) if told else None,
                linked=self.linked,
                received=self._received["readings"],
                batches=len(self.receiver.batches),
                bytes_each=self._wire_bytes / max(self._received["readings"], 1),
            )
        )

    def _note_next_try(self, detail: str) -> None:
        """Note when the gateway connects again; once the link is back, say so: it looks broken until then."""
        wait = re.search(r"connecting again in (\d+) s", detail)
        if wait and detail != self._detail:
            self._next_try = time.monotonic() + int(wait[1])
        self._detail = detail
        left = self._next_try - time.monotonic()
        if self._back_at and left > 1:
            self._next_try = 0.0  # told once
            self.stage.tell(f"the gateway, which comes back ever less often, tries again in {left:.0f} s")

    def _arrived(self, batch: "Received") -> None:
        """Count a batch; of an alarm, tell how long it took and what it overtook."""
        records = [item for item in batch.items() if isinstance(item, Record)]
        self._received[batch.id.split("/")[2]] += len(records)
        self._wire_bytes += len(batch.body)
        if "/alarms/" not in batch.id:
            return
        for alarm in (json.loads(record.value) for record in records):
            if alarm["state"] != "raised" or not self._raised:
                continue
            raised = self._raised.pop(0)
            took = batch.at - (raised.at if raised.linked else self._back_at)
            since = "after it was raised" if raised.linked else "after the link was back"
            behind = raised.made - self._received["readings"]  # made before it, and not there yet
            told = f"ALARM at the cloud {took * 1000:.0f} ms {since}, ahead of {behind:,} older readings"
            self.stage.tell(told, "ok")

    # -- the count -----------------------------------------------------------------------------------------------------

    def count(self) -> bool:
        """Compare what the receiver holds with what the sensors made, reading by reading."""
        receiver = self.receiver
        made = Counter(islice(self._fleet(), self._made))
        got = Counter((record.key, record.value) for record in receiver.records("readings"))
        lost, extra = sum((made - got).values()), sum((got - made).values())
        states = [json.loads(record.value)["state"] for record in receiver.records("alarms")]
        means = sum(1 for _ in receiver.records("means"))
        each = self._wire_bytes / max(sum(got.values()), 1)
        rows = [
            ("made by the sensors", sum(made.values()), ""),
            (
                "delivered to the cloud",
                sum(got.values()),
                f"in {len(receiver.batches)} batches, {each:.1f} bytes per reading",
            ),
            ("lost", lost, ""),
            ("duplicated", extra, f"after dropping {receiver.repeats} batches repeated under the same id"),
            ("alarms", len(states), f"{', '.join(states)}; each once"),
            ("window results", means, "of 5 s per sensor"),
        ]
        if receiver.conflicts:
            rows.append(("ids with two contents", len(receiver.conflicts), ""))
        self.table = rows
        return not lost and not extra and not receiver.conflicts and means > 0 and states == ALARMS

    # -- afterwards ----------------------------------------------------------------------------------------------------

    def stay(self) -> None:
        """Go on for whoever wants to look, until ctrl-c."""
        stopped = threading.Event()
        fleet = takewhile(lambda _: not stopped.is_set(), islice(self._fleet(), self._made, None))
        sender = threading.Thread(target=self._publish, args=(fleet,), name="sensors", daemon=True)
        try:
            sender.start()
            click.echo(f"\nit goes on until ctrl-c: open http://127.0.0.1:{self.status}/ in a browser, or try")
            click.echo(f"  tidegate top --config {self.folder}/tidegate.yaml")
            while True:
                self.receiver.collect(1.0)
                self.receiver.batches.clear()
        except KeyboardInterrupt:
            pass  # the way to end it
        finally:
            stopped.set()
            if sender.ident is not None:
                sender.join(5)

    def _fleet(self) -> Iterator[tuple[str, bytes]]:
        """The readings of the fleet, from its first one on: the same ones each time."""
        simulated = importlib.import_module("drivers.simulated")
        fleet: Iterator[tuple[str, bytes]] = simulated.readings(seed=7, sensors=SENSORS, rate=RATE, start=self._epoch)
        return fleet

    def close(self) -> None:
        """End everybody who runs."""
        self.stop_gateway()
        self.receiver.close()
        self.near.stop()
        self.far.stop()


@click.command()
@click.option(
    "--seconds",
    type=click.FloatRange(min=LEAST_S),
    default=SECONDS,
    show_default=True,
    help="How long the sensors send.",
)
@click.option(
    "--keep", is_flag=True, help="Leave it running at the end, to look at it until ctrl-c; and keep its folder."
)
def command(seconds: float, keep: bool) -> None:
    """Show the whole path: sensors, gateway, cloud; a cut link, a kill -9, an alarm; and the count at the end.

    Exits with 0 if everything that was made arrived exactly once, else with 1.
    """
    if shutil.which("mosquitto") is None and not Path("/usr/sbin/mosquitto").exists():
        raise click.ClickException("the demo needs the broker mosquitto; try: sudo apt install mosquitto")
    folder = Path(tempfile.mkdtemp(prefix="tidegate-demo-"))
    stage: Stage = Picture() if sys.stdout.isatty() and not os.environ.get("CI") else Lines()
    story = Story(folder, seconds, stage)
    try:
        with stage:
            passed = story.run()
        width = max(len(name) for name, _, _ in story.table)
        click.echo("\n" + "\n".join(f"  {name:<{width}}  {n:>8,}   {note}".rstrip() for name, n, note in story.table))
        click.echo("\nmade = delivered: nothing lost, nothing twice" if passed else "\nTHE COUNT IS NOT RIGHT")
        if keep:
            story.stay()
    finally:
        story.close()
        if keep:
            click.echo(f"everything is in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if passed else 1)
