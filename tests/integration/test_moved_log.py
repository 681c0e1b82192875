"""A gateway whose log comes from elsewhere: the new epoch is told, and what was under way goes out under it."""

import threading

import pytest
from click.testing import CliRunner
from process import GatewayProcess

from gateway.cli import main
from gateway.log import SystemFiles
from gateway.log.identity import mark_copy
from gateway.testing import Mosquitto, Receiver, publish

pytestmark = pytest.mark.integration

CONFIG = """\
gateway: {{id: g1, status: "127.0.0.1:{status}"}}
log: {{path: {log}, turn: 50ms, commit: 50ms}}
drivers:
  plant: {{driver: mqtt, url: "mqtt://127.0.0.1:{near}", subscribe: ["plant/#"], stream: readings}}
sinks:
  cloud: {{sink: mqtt, url: "mqtt://127.0.0.1:{far}", topic: "gw/{{stream}}", streams: [readings],
          batch: {{records: 20, age: 100ms}}, format: ndjson}}
"""
COUNT = 2000


def test_after_a_move_everything_arrives_under_ids_of_the_new_epoch_and_the_status_says_why(tmp_path):
    with (
        Mosquitto(tmp_path / "near") as near,
        Mosquitto(tmp_path / "far") as far,
        Receiver(far.port) as receiver,
    ):
        with GatewayProcess(tmp_path, CONFIG, near=near.port, far=far.port) as gateway:
            gateway.wait_for_line("driver:plant is up")  # what is published before it has subscribed is nobody's
            epoch = gateway.json("/api/v1/status")["epoch"]
            messages = [(f"plant/{n % 10}", b'{"n":%d}' % n) for n in range(COUNT)]
            sender = threading.Thread(target=publish, args=(near.port, messages, 1000.0))
            sender.start()
            receiver.until(COUNT // 3, "readings", 30)
            gateway.kill()  # in the middle of deliveries, some of which arrived and were never confirmed to the log
            sender.join()
            mark_copy(str(gateway.log_folder), SystemFiles(), live=True)
            gateway.start()
            gateway.wait_for_records("readings", COUNT)
            status = gateway.json("/api/v1/status")
            told = CliRunner().invoke(main, ["status", "-c", str(gateway.config)]).output
            while {record.value for record in receiver.records("readings")} != {value for _, value in messages}:
                assert receiver.collect(20) > 0, "nothing comes any more, and not everything is here"
    assert status["epoch"] != epoch
    assert "restored from a backup: a new epoch begins" in status["log"]["moved"]
    assert status["log"]["moved"] in told
    assert "this log was restored from a backup" in gateway.output.read_text()
    assert {name.split("/")[1] for name in receiver.batches} == {epoch, status["epoch"]}
    assert not receiver.conflicts
