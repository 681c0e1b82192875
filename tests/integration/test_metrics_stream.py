"""The stream of our own numbers: for gateways that nobody can scrape."""

import json
import time

import pytest
from process import GatewayProcess

pytestmark = pytest.mark.integration

CONFIG = """\
gateway: {{id: g1, status: "127.0.0.1:{status}", metrics_every: 1s}}
log: {{path: {log}, size: 64MiB}}
drivers:
  fleet: {{driver: simulated, stream: readings, rate: 100}}
{more}
"""
READ = """\
pipelines:
  behind:
    from: _metrics
    schema: {name: str, value: float, reader: "str = ''"}
    steps: [{filter: name == 'tidegate_lag_records'}, {emit: {reader: reader, lag: value}}]
    to: lags
sinks:
  out: {sink: file, path: FOLDER, streams: [_metrics], batch: {age: 200ms}, format: ndjson}
"""


def records(gateway, stream):
    return gateway.json(f"/api/v1/streams/{stream}/records?limit=1000")["records"]


def wait_for(holds, timeout_s=20.0):
    until = time.monotonic() + timeout_s
    while not (found := holds()):
        assert time.monotonic() < until
        time.sleep(0.1)
    return found


def test_a_pipeline_and_a_sink_get_our_numbers_and_reading_them_does_not_make_more_of_them(tmp_path):
    more = READ.replace("FOLDER", str(tmp_path / "out"))
    with GatewayProcess(tmp_path, CONFIG, more=more) as gateway:
        wait_for(lambda: {json.dumps(r["v"]) for r in records(gateway, "lags") if r["v"]["lag"] >= 0})
        assert {record["v"]["reader"] for record in records(gateway, "lags")} <= {"pipeline:behind", "sink:out"}
        wait_for(lambda: sum(r["k"] == "tidegate_uptime_seconds" for r in records(gateway, "_metrics")) >= 6)
        found = records(gateway, "_metrics")
        rounds: dict[int, int] = {}
        for record in found:
            rounds[record["t"]] = rounds.get(record["t"], 0) + 1
        sizes = list(rounds.values())
        assert sizes[-1] == sizes[-2] == sizes[-3], "the number of our numbers settles"
        (total,) = (r["v"]["value"] for r in found[-sizes[-1] :] if r["v"]["name"] == "tidegate_records_in_total")
        assert total > 0
        lines = wait_for(
            lambda: "".join(path.read_text() for path in (tmp_path / "out").rglob("*.ndjson")).splitlines()
        )
        assert json.loads(lines[0])["v"]["name"].startswith("tidegate_")


def test_where_nobody_reads_them_nothing_is_recorded(tmp_path):
    with GatewayProcess(tmp_path, CONFIG, more="") as gateway:
        wait_for(lambda: len(records(gateway, "readings")) > 150)
        assert {stream["name"] for stream in gateway.json("/api/v1/streams")["streams"]} == {"readings", "_dead"}
