"""`tidegate demo`: simulated sensors through two real brokers, a cut link, a kill -9, and a count at the end.

It runs the gateway as its user would: a configuration file, `tidegate run` in a process of its own, a real mosquitto on
each side. Everything lives in one folder that is removed at the end.
"""

import contextlib
import importlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from gateway.testing import Receiver

SENSORS, RATE, SECONDS = 40, 400.0, 40.0
CUT_AT, CUT_FOR, KILL_AT = 8.0, 14.0, 15.0

CONFIG = """\
gateway: {{id: demo, status: "127.0.0.1:{status}"}}
log: {{path: {log}, size: 64MiB}}
drivers:
  sensors:
    driver: mqtt
    url: mqtt://127.0.0.1:{near}
    subscribe: ["sim/#"]
    stream: readings
pipelines:
  means:
    from: readings
    schema: {{ts: "time[s]", v: float}}
    time: {{event: ts, lateness: 2s, max_ahead: 1h}}
    steps:
      - filter: v > -50
      - window: {{tumbling: 10s, agg: {{n: count(), mean: mean(v), peak: max(v)}}}}
    to: means
sinks:
  cloud:
    sink: mqtt
    url: mqtt://127.0.0.1:{far}
    topic: "gw/{{gateway}}/{{stream}}"
    streams: [means, readings]
    batch: {{records: 500, age: 2s}}
    format: ndjson+zstd
"""


class Story:
    """The demo, told line by line with the seconds since its start."""

    def __init__(self, folder: Path, seconds: float) -> None:
        from gateway.testing import Mosquitto, Receiver, free_port, publish

        self.folder, self.seconds = folder, seconds
        self.near, self.far = Mosquitto(folder / "near"), Mosquitto(folder / "far")
        self.status = free_port()
        self._publish, self._make_receiver = publish, Receiver
        self._gateway: subprocess.Popen[bytes] | None = None
        self._started = time.monotonic()
        self.published = 0

    def tell(self, text: str) -> None:
        click.echo(f"{time.monotonic() - self._started:5.1f} s  {text}")

    def start_gateway(self) -> None:
        config = self.folder / "tidegate.yaml"
        config.write_text(
            CONFIG.format(status=self.status, log=self.folder / "log", near=self.near.port, far=self.far.port)
        )
        with (self.folder / "gateway.log").open("ab") as log:
            self._gateway = subprocess.Popen(
                [sys.executable, "-m", "gateway", "run", "--config", str(config)], stdout=log, stderr=log
            )

    def kill_gateway(self) -> None:
        assert self._gateway is not None
        self._gateway.send_signal(signal.SIGKILL)
        self._gateway.wait()

    def stop_gateway(self) -> None:
        if self._gateway is not None and self._gateway.poll() is None:
            self._gateway.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._gateway.wait(15)
            if self._gateway.poll() is None:
                self._gateway.kill()

    def waiting(self) -> str:
        """What the gateway says of itself."""
        import http.client

        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.status, timeout=2)
            connection.request("GET", "/api/v1/status")
            body = json.loads(connection.getresponse().read())
        except (OSError, ValueError, http.client.HTTPException):
            return "the gateway does not answer"
        lag = sum(reader["lag"] for reader in body["readers"] if reader["reader"].startswith("sink:"))
        return f"{body['sentence']} ({lag} readings wait)"

    def publish(self) -> None:
        """Send the seeded fleet's readings to the near broker for as long as the demo lasts."""
        readings = importlib.import_module("drivers.simulated").readings
        fleet = readings(seed=7, sensors=SENSORS, rate=RATE)
        self.published = self._publish(self.near.port, islice(fleet, int(RATE * self.seconds)), RATE)

    def run(self) -> bool:
        """The whole story; True if every reading arrived exactly once."""
        receiver = self._make_receiver(self.far.port)
        with self.near, self.far:
            self._started = time.monotonic()
            self.tell(f"two brokers are up, on ports {self.near.port} (sensors) and {self.far.port} (cloud)")
            receiver.connect()
            self.start_gateway()
            wait_for_subscription(self.status)
            self.tell(f"the gateway is ready; its status is at http://127.0.0.1:{self.status}/api/v1/status")
            sender = threading.Thread(target=self.publish, name="sensors")
            sender.start()
            begun = time.monotonic()
            self.tell(f"{SENSORS} simulated sensors send {RATE:.0f} readings a second")
            steps: list[tuple[float, str, Callable[[], None]]] = [
                (CUT_AT, "the link to the cloud is cut", self.far.stop),
                (KILL_AT, "kill -9 of the gateway, and a new start", self._kill_and_start),
                (CUT_AT + CUT_FOR, "the link is back", self.far.start),
            ]
            steps.sort(key=lambda step: step[0])
            last = 0.0
            while sender.is_alive() or steps:
                receiver.collect(0.2)
                now = time.monotonic() - begun
                if steps and now >= steps[0][0]:
                    _, what, act = steps.pop(0)
                    self.tell(what)
                    act()
                if now - last >= 3:
                    last = now
                    self.tell(f"    {len(receiver.batches):4} batches received   {self.waiting()}")
            sender.join()
            self.tell(f"the sensors have stopped after {self.published} readings; waiting for the rest")
            receiver.until(self.published, "readings", 40)
            passed = self.count(receiver)
            self.stop_gateway()
            receiver.close()
        return passed

    def _kill_and_start(self) -> None:
        self.kill_gateway()
        self.start_gateway()

    def count(self, receiver: "Receiver") -> bool:
        """Compare what the receiver holds with what the generator made, record by record."""
        readings = importlib.import_module("drivers.simulated").readings
        made = Counter(islice(readings(seed=7, sensors=SENSORS, rate=RATE), self.published))
        got = Counter((record.key, record.value) for record in receiver.records("readings"))
        lost, extra = sum((made - got).values()), sum((got - made).values())
        means = sum(1 for _ in receiver.records("means"))
        size = sum(len(batch.body) for batch in receiver.batches.values())
        click.echo("")
        click.echo(f"  made by the sensors       {sum(made.values()):8}")
        click.echo(
            f"  delivered to the cloud    {sum(got.values()):8}   in {len(receiver.batches)} batches, "
            f"{size / max(sum(got.values()), 1):.1f} bytes per reading"
        )
        click.echo(f"  lost                      {lost:8}")
        click.echo(
            f"  duplicated                {extra:8}   after dropping {receiver.repeats} batches repeated "
            "under the same id"
        )
        click.echo(f"  window results            {means:8}   of 10 s per sensor")
        if receiver.conflicts:
            click.echo(f"  ids with two contents     {len(receiver.conflicts):8}")
        return not lost and not extra and not receiver.conflicts and means > 0


def wait_for_subscription(status: int, timeout_s: float = 15.0) -> None:
    """Until the gateway says that it is ready: recovered, drivers up."""
    import http.client

    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", status, timeout=2)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise click.ClickException("the gateway did not become ready; see gateway.log in the demo's folder (--keep)")


@click.command()
@click.option(
    "--seconds", default=SECONDS, show_default=True, help="How long the sensors send; at least until the link is back."
)
@click.option("--keep", is_flag=True, help="Keep the folder with configuration, logs and data, and say where it is.")
def command(seconds: float, keep: bool) -> None:
    """Show the whole path: sensors, gateway, cloud; a cut link; a kill -9; and the count at the end."""
    folder = Path(tempfile.mkdtemp(prefix="tidegate-demo-"))
    story = Story(folder, max(seconds, CUT_AT + CUT_FOR + 3))
    try:
        passed = story.run()
    finally:
        story.stop_gateway()
        if keep:
            click.echo(f"everything is in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    click.echo("\nrecorded = delivered: nothing lost, nothing twice" if passed else "\nTHE COUNT IS NOT RIGHT")
    sys.exit(0 if passed else 1)
