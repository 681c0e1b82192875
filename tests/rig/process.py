"""The real daemon in a process of its own, as its user runs it."""

import contextlib
import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from gateway.cli._client import Client, Door, Refused
from gateway.log.archive import Archive
from gateway.log.audit import Audit, audit
from gateway.testing import free_port

_running: set[subprocess.Popen] = set()


@contextlib.contextmanager
def none_left() -> Iterator[None]:
    """Ends every gateway that was started in here and left running."""
    before = set(_running)
    yield
    for process in _running - before:
        process.kill()
        process.wait(30)
        _running.discard(process)


class GatewayProcess:
    """`tidegate run` with a configuration; `{status}`, `{log}` and the keywords given are filled in."""

    def __init__(self, folder: Path, config: str, *, launcher: list[str] | None = None, **names: object) -> None:
        self.folder, self.status = folder, free_port()
        self.log_folder = folder / "log"
        self.config = folder / "tidegate.yaml"
        self.write_config(config, **names)
        self.output = folder / "gateway.log"
        self._control = Door(str(self.log_folder / "control"), "the log's folder", is_socket=True)
        self._launcher = launcher or [sys.executable, "-m", "gateway", "run", "--config"]
        self.process: subprocess.Popen | None = None
        self._mark = 0

    def write_config(self, config: str, **names: object) -> None:
        self.config.write_text(config.format(status=self.status, log=self.log_folder, **names))

    def start(self, wait: bool = True, stdin: IO[bytes] | None = None) -> None:
        with self.output.open("ab") as output:
            self._mark = self.output.stat().st_size
            self.process = subprocess.Popen(
                [*self._launcher, str(self.config)], stdin=stdin, stdout=output, stderr=output
            )
        _running.add(self.process)
        if wait:
            self.wait_for_line("ready after")

    def wait_for_line(self, text: str, timeout_s: float = 30) -> None:
        """Until this start of the process has said it."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if text.encode() in self.output.read_bytes()[self._mark :]:
                return
            if self.process is None or self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"{text!r} was not said:\n{self.output.read_text()[-4000:]}")

    def wait_for_records(self, stream: str, next_: int, timeout_s: float = 30) -> None:
        """Until so many records of a stream are durable, however slow the disk is."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if any(one["name"] == stream and one["next"] >= next_ for one in self.json("/api/v1/status")["streams"]):
                return
            time.sleep(0.01)
        raise AssertionError(f"{stream} has not reached {next_}:\n{self.output.read_text()[-4000:]}")

    def reload(self) -> list[str] | None:
        """As `tidegate reload` does: what changed, or None where the configuration was refused."""
        try:
            return Client([self._control], timeout_s=30).post("reload")["changes"]
        except Refused:
            return None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)
        self._gone()

    def stop(self) -> int:
        """The ordered stop; returns the exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(20)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._gone()
        return code

    def _gone(self) -> None:
        _running.discard(self.process)
        self.process = None

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.status, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def json(self, path: str) -> dict:
        status, body = self.get(path)
        assert status == 200, (status, body)
        return json.loads(body)

    def accounts(self) -> Audit:
        """As `tidegate verify --local`, which works beside a gateway and without one: everything must add up."""
        archive = Archive(str(self.log_folder))
        archive.open()
        found = audit(archive)
        assert found.wrong == []
        return found

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        total = 0.0
        for line in self.get("/metrics")[1].decode().splitlines():
            if line.startswith((name + "{", name + " ")):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def __enter__(self) -> "GatewayProcess":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()
