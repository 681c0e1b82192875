"""A backup of a running gateway, restored as its RESTORE.txt says, is a gateway that goes on."""

import subprocess
import sys
import threading

import pytest
from process import GatewayProcess

from gateway.testing import Mosquitto, publish

pytestmark = pytest.mark.integration

CONFIG = """\
gateway: {{id: g1, status: "127.0.0.1:{status}"}}
log: {{path: {log}, journal: 1MiB, turn: 50ms, commit: 50ms}}
drivers:
  plant: {{driver: mqtt, url: "mqtt://127.0.0.1:{near}", subscribe: ["plant/#"], stream: readings}}
pipelines:
  means:
    from: readings
    schema: {{n: int}}
    steps: [window: {{tumbling: 1s, agg: {{c: count()}}}}]
    to: means
"""
COUNT = 20_000


def test_a_backup_taken_under_load_adds_up_and_a_gateway_goes_on_from_it(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with Mosquitto(tmp_path / "near") as near, GatewayProcess(tmp_path / "one", CONFIG, near=near.port) as gateway:
        gateway.wait_for_line("driver:plant is up")  # what is published before it has subscribed is nobody's
        messages = ((f"plant/{n % 10}", b'{"n":%d}' % n) for n in range(COUNT))
        sender = threading.Thread(target=publish, args=(near.port, messages, 8000.0))
        sender.start()
        gateway.wait_for_records("readings", COUNT // 2)
        command = [sys.executable, "-m", "gateway", "backup", str(tmp_path / "copy.tar"), "-c", str(gateway.config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "while its gateway went on" in done.stdout
        sender.join()
        gateway.wait_for_records("readings", COUNT)
        gateway.accounts()
        epoch = gateway.json("/api/v1/status")["epoch"]
        gateway.stop()
        two = tmp_path / "two"
        subprocess.run(["tar", "-xf", str(tmp_path / "copy.tar"), "-C", str(two)], check=True)
        assert (two / "config" / "tidegate.yaml").read_text() == gateway.config.read_text()
        restored = GatewayProcess(two, CONFIG, near=near.port)
        with restored:
            restored.wait_for_line("driver:plant is up")
            there = {one["name"]: one["next"] for one in restored.json("/api/v1/status")["streams"]}
            assert COUNT // 2 <= there["readings"] <= COUNT
            publish(near.port, [("plant/0", b'{"n":1}')] * 100)
            restored.wait_for_records("readings", there["readings"] + 100)
            assert restored.json("/api/v1/status")["epoch"] != epoch
            restored.accounts()
