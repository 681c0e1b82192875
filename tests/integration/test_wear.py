"""A budget for the card, on the real daemon."""

import re
import time

import pytest
from process import GatewayProcess

pytestmark = pytest.mark.integration

CONFIG = """\
gateway: {{id: g1, status: "127.0.0.1:{status}"}}
log: {{path: {log}, turn: 20ms, commit: 20ms{budget}}}
drivers:
  fleet: {{driver: simulated, stream: readings, rate: 200}}
"""


def wear(gateway: GatewayProcess) -> dict:
    return gateway.json("/api/v1/status")["log"]["wear"]


def wait_for(holds, timeout_s: float = 40) -> None:
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)


def metrics(gateway: GatewayProcess) -> str:
    code, body = gateway.get("/metrics")
    assert code == 200
    return body.decode()


def written(gateway: GatewayProcess) -> tuple[int, int]:
    """(records, commits)"""
    status = gateway.json("/api/v1/status")
    return sum(stream["next"] for stream in status["streams"]), status["log"]["commits"]


def test_a_budget_that_is_too_small_stretches_commits_says_so_and_goes_with_a_reload(tmp_path):
    gateway = GatewayProcess(tmp_path, CONFIG, budget=", wear: 10MB/day, commit_max: 2s")
    gateway.start()
    assert wear(gateway)["commit_s"] == 0.02
    wait_for(lambda: wear(gateway)["commit_s"] >= 0.2)
    gateway.wait_for_line("to keep within 10 MB a day")
    assert "to keep within 10 MB a day" in wear(gateway)["told"]
    assert 0.2 <= float(re.search(r"^tidegate_commit_interval_seconds (.+)$", metrics(gateway), re.M)[1]) <= 2
    records, commits = written(gateway)
    gateway.wait_for_records("readings", records + 400)
    later, more = written(gateway)
    assert (later - records) / (more - commits) >= 10  # 4 to a commit, as it was told at first
    gateway.write_config(CONFIG, budget="")
    assert gateway.reload() == ["log.wear changed", "log.commit_max changed"]
    assert wear(gateway)["commit_s"] == 0.02
    assert wear(gateway)["budget_day_bytes"] is None
    gateway.stop()
