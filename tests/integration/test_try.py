"""`tidegate try` beside the daemon that records, after a kill, and after a stop: it sees the log and leaves it alone."""

import json
import subprocess
import sys

import pytest
from process import GatewayProcess

CONFIG = """\
gateway: {{id: lab, status: "127.0.0.1:{status}"}}
log: {{path: {log}, turn: 50ms, commit: 100ms, journal: 1MiB}}
drivers:
  lab: {{driver: simulated, stream: readings, sensors: 50, rate: 2000, seed: 7}}
pipelines:
  high:
    from: readings
    schema: {{v: float}}
    steps: [filter: v > {limit}]
    to: highs
"""


def tried(gateway, *args):
    command = [sys.executable, "-m", "gateway", "try", "high", "--json", "-c", str(gateway.config), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def totals(answer):
    (stream,), (output,) = answer["inputs"], answer["outputs"]
    return (
        stream["records"],
        output["recorded"],
        output["same"],
        output["added"] + output["missing"] + output["changed"],
    )


@pytest.mark.integration
def test_what_the_daemon_records_is_tried_while_it_records_after_a_kill_and_after_a_stop(tmp_path):
    gateway = GatewayProcess(tmp_path, CONFIG, limit=20)
    gateway.start()
    seen = 0
    for _ in range(3):
        gateway.wait_for_records("readings", seen + 1)
        records, recorded, same, differ = totals(tried(gateway))
        assert (same, differ) == (recorded, 0)
        assert records > seen
        seen = records
    before = gateway.json("/api/v1/status")
    gateway.kill()
    records, recorded, same, differ = totals(tried(gateway))
    assert (same, differ) == (recorded, 0)
    assert records >= before["streams"][[one["name"] for one in before["streams"]].index("readings")]["next"]
    gateway.start()
    gateway.wait_for_records("readings", records + 1)
    totals(tried(gateway))
    assert gateway.stop() == 0
    whole = totals(tried(gateway))
    assert whole[3] == 0
    assert whole == totals(tried(gateway))
    gateway.write_config(CONFIG, limit=30)
    assert totals(tried(gateway))[3] > 0
