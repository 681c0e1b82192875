"""The commands that watch, against the real daemon and in a real terminal: through a kill -9 and back."""

import contextlib
import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time

import pytest
from process import GatewayProcess

from gateway.testing import free_port

CONFIG = """\
gateway: {{id: g1, status: "127.0.0.1:{status}"}}
log: {{path: {log}, size: 64MiB, commit: 100ms}}
drivers:
  plant: {{driver: simulated, stream: readings, sensors: 4, rate: 40, faults: {{garbage: 0.2}}}}
pipelines:
  typed: {{from: readings, schema: {{v: float}}, steps: [{{emit: {{v: v}}}}], to: values}}
sinks:
  cloud: {{sink: mqtt, url: "mqtt://127.0.0.1:{far}", topic: "gw/{{stream}}", streams: [values], format: ndjson}}
"""


@pytest.fixture
def gateway(tmp_path):
    with GatewayProcess(tmp_path, CONFIG, far=free_port()) as gateway:
        yield gateway


def tidegate(gateway, *words):
    command = [sys.executable, "-m", "gateway", *words, "--config", str(gateway.config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def wait_for(holds, timeout_s=20):
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, command, rows=24, columns=80):
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(theirs)
        environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ | {"TERM": "xterm-256color"},
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        self._theirs = theirs
        self.output = b""

    def wait_for(self, text, timeout_s=30):
        """Until it has printed this since the last call."""
        until, begun = time.monotonic() + timeout_s, len(self.output)
        while text.encode() not in self.output[begun:]:
            assert time.monotonic() < until, f"{text!r} did not come:\n{self.output[-3000:].decode(errors='replace')}"
            if select.select([self._ours], [], [], 0.2)[0]:
                self.output += os.read(self._ours, 1 << 16)

    def type(self, keys):
        os.write(self._ours, keys)

    def end(self):
        """The exit code, and how the terminal was left."""
        code = self.process.wait(20)
        with contextlib.suppress(OSError):
            while select.select([self._ours], [], [], 0.2)[0]:
                self.output += os.read(self._ours, 1 << 16)
        return code, termios.tcgetattr(self._theirs)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture
def terminal(gateway):
    started = []

    def terminal(*words):
        started.append(Terminal([sys.executable, "-m", "gateway", *words, "--config", str(gateway.config)]))
        return started[-1]

    yield terminal
    for each in started:
        each.close()


def test_status_says_in_words_that_the_cloud_is_away_and_exits_with_1(gateway):
    wait_for(lambda: gateway.json("/api/v1/status")["level"] == "attention")
    found = tidegate(gateway, "status")
    assert (found.returncode, found.stderr) == (1, "")
    assert "▲ " in found.stdout
    assert "cloud unreachable" in found.stdout.lower()
    for head in ("DRIVER", "STREAM", "PIPELINE", "SINK"):
        assert f"\n{head} " in found.stdout


def test_top_lives_through_a_kill_and_leaves_the_terminal_as_it_was(gateway, terminal):
    top = terminal("top")
    top.wait_for("DRIVER")
    gateway.kill()
    top.wait_for("reconnecting")
    gateway.start()
    top.wait_for("live")
    top.type(b"q")
    code, left = top.end()
    assert (code, left) == (0, top.before)
    assert b"\x1b[?1049l" in top.output  # back from the alternate screen


@pytest.mark.parametrize("ending", ["ctrl-c", "SIGTERM"])
def test_top_restores_the_terminal_however_it_ends(terminal, ending):
    top = terminal("top")
    top.wait_for("DRIVER")
    if ending == "ctrl-c":
        top.type(b"\x03")
    else:
        top.process.terminate()
    code, left = top.end()
    assert left == top.before
    assert code == (0 if ending == "ctrl-c" else 128 + 15)
    assert b"\x1b[?1049l" in top.output
    assert b"\x1b[?25h" in top.output[top.output.rindex(b"\x1b[?25l") :]


def test_top_without_a_terminal_is_one_picture_as_text(gateway):
    wait_for(lambda: gateway.json("/api/v1/dead?limit=1")["records"])
    found = tidegate(gateway, "top")
    assert (found.returncode, found.stderr) == (0, "")
    assert "\x1b" not in found.stdout
    for word in ("in  ", "waiting  ", "SINK ", "DEAD LETTER "):
        assert word in found.stdout


def test_status_watch_goes_on_while_the_gateway_is_away(gateway, terminal):
    watch = terminal("status", "--watch")
    watch.wait_for("SINK")
    gateway.kill()
    watch.wait_for("nothing answers")
    gateway.start()
    watch.wait_for("SINK")
    watch.type(b"\x03")
    assert watch.end()[0] == 0


def test_tail_goes_on_through_a_kill_and_shows_every_record_once(gateway):
    command = [sys.executable, "-u", "-m", "gateway", "tail", "readings", "-n", "1", "--json", "--config"]
    seen = []
    with subprocess.Popen([*command, str(gateway.config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tail:
        try:
            seen += [json.loads(tail.stdout.readline())["o"] for _ in range(40)]
            gateway.kill()
            gateway.start()
            seen += [json.loads(tail.stdout.readline())["o"] for _ in range(100)]
        finally:
            tail.send_signal(2)
            _, said = tail.communicate(timeout=20)
    assert seen == list(range(seen[0], seen[0] + 140))
    assert tail.returncode == 0
    assert b"Traceback" not in said


def test_dead_letters_are_listed_with_their_reasons_and_shown_with_their_bytes(gateway):
    wait_for(lambda: gateway.json("/api/v1/dead?limit=1")["records"])
    listed = tidegate(gateway, "dead")
    assert listed.returncode == 0
    assert "  typed  decode: " in listed.stdout
    newest = listed.stdout.splitlines()[-1].split()[-1]
    shown = tidegate(gateway, "dead", "show", newest)
    assert shown.returncode == 0
    assert "\n00000000  " in shown.stdout


def test_reload_says_what_it_did_and_every_mistake_at_its_place(gateway):
    found = tidegate(gateway, "reload")
    assert (found.returncode, found.stdout, found.stderr) == (0, "nothing has changed\n", "")
    good = gateway.config.read_text()
    gateway.config.write_text(good.replace("sink: mqtt", "sink: mqqt"))
    found = tidegate(gateway, "reload")
    assert (found.returncode, found.stdout) == (78, "")
    assert f"{gateway.config}:8:" in found.stderr
    assert "did you mean mqtt?" in found.stderr
    assert found.stderr.endswith("nothing was reloaded: the gateway goes on as before\n")
    told = tidegate(gateway, "reload", "--json")
    assert (told.returncode, json.loads(told.stdout)["problems"][0]["line"]) == (78, 8)
    assert "the last reload was refused" in tidegate(gateway, "status").stdout.lower()
    gateway.config.write_text(good)
    assert tidegate(gateway, "reload").returncode == 0


def test_reload_of_a_file_that_the_gateway_does_not_run_with_is_refused(gateway, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(gateway.config.read_text())
    found = subprocess.run(
        [sys.executable, "-m", "gateway", "reload", "--config", other], capture_output=True, text=True
    )
    assert found.returncode == 2
    assert f"the gateway runs with {gateway.config}, not with {other}" in found.stderr


def test_reload_without_a_gateway_says_what_to_try_and_whether_the_file_is_right(tmp_path):
    gateway = GatewayProcess(tmp_path, CONFIG, far=free_port())
    found = tidegate(gateway, "reload")
    assert found.returncode == 1
    assert f"Start it: tidegate run -c {gateway.config}" in found.stderr
    gateway.config.write_text(gateway.config.read_text().replace("rate: 40", "rate: 0"))
    found = tidegate(gateway, "reload")
    assert found.returncode == 78
    assert f"{gateway.config}:4:" in found.stderr
    assert found.stderr.endswith("nothing was reloaded: no gateway was reached\n")


def test_whoever_comes_from_elsewhere_needs_the_token_and_the_control_socket_needs_none(tmp_path):
    (tmp_path / "token").write_text("a-token-of-24-characters\n")
    listen = '{{listen: "127.0.0.1:{status}", token_file: token}}'
    with GatewayProcess(tmp_path, CONFIG.replace('"127.0.0.1:{status}"', listen), far=free_port()) as gateway:
        assert tidegate(gateway, "lag").returncode == 0
        url = ("--url", f"http://127.0.0.1:{gateway.status}")
        refused = tidegate(gateway, "lag", *url)
        assert refused.returncode == 1
        assert "name the file that holds it with --token-file" in refused.stderr
        assert tidegate(gateway, "lag", *url, "--token-file", str(tmp_path / "token")).returncode == 0
        picture = tidegate(gateway, "top", *url, "--token-file", str(tmp_path / "token"))
        assert (picture.returncode, picture.stderr) == (0, "")
