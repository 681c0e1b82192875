"""A receiver that fails in every way there is, and a gateway that is killed meanwhile: nothing is lost, and what comes
again comes under its name with the same bytes.
"""

import random
import threading
import time
from collections import Counter

import pytest
from process import GatewayProcess
from web_receiver import CUT, CUT_IN_ANSWER, HANG, OK, PAGE, REDIRECT, STORED_AND_CUT, Act, WebReceiver

from gateway.testing import Mosquitto, publish

pytestmark = [pytest.mark.fault, pytest.mark.integration]

CONFIG = """\
gateway: {{id: g1, status: "127.0.0.1:{status}"}}
log: {{path: {log}, size: 256MiB}}
drivers:
  plant: {{driver: mqtt, url: "mqtt://127.0.0.1:{near}", subscribe: ["plant/#"], stream: readings}}
sinks:
  cloud: {{sink: http, url: "{url}/in/{{stream}}", streams: [readings], start: earliest, timeout: 1s,
          batch: {{records: {records}, age: 500ms}}, format: {format}, connections: {connections}}}
"""
FAULTS = (
    Act(429, {"Retry-After": "1"}),
    Act(500),
    Act(503, {"Content-Type": "text/html"}, b"<html>"),
    Act(408),
    HANG,
    CUT,
    CUT_IN_ANSWER,
    STORED_AND_CUT,
    STORED_AND_CUT._replace(then="hang"),
    REDIRECT,
    PAGE,
    Act(404),
    Act(401),
)


def flood(count):
    return ((f"plant/{n % 50}", b'{"n":%d}' % n) for n in range(count))


def until(condition, timeout_s):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def stored(receiver):
    return sum(int(r.headers["tidegate-count"]) for r in list(receiver.stored.values()))


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("form", "connections"), [("ndjson+zstd", 1), ("msgpack+gzip", 3)])
def test_whatever_the_receiver_does_each_record_is_stored_and_each_repeat_is_the_same(
    tmp_path, full, form, connections
):
    rounds, records = (10, 500) if full else (1, 200)
    dice = random.Random(7)
    script = [act for _ in range(rounds) for act in dice.sample([*FAULTS, *[OK] * len(FAULTS)], 2 * len(FAULTS))]
    count = records * len(script)
    kills = 10 if full else 2
    with Mosquitto(tmp_path / "near") as near, WebReceiver(script) as receiver:
        with GatewayProcess(
            tmp_path, CONFIG, near=near.port, url=receiver.url, format=form, connections=connections, records=records
        ) as gateway:
            gateway.wait_for_line("driver:plant is up")
            sender = threading.Thread(target=publish, args=(near.port, flood(count)))
            sender.start()
            for n in range(kills):
                until(lambda: stored(receiver) > count * (n + 1) // (kills + 2), 200)
                gateway.kill()
                gateway.start()
            sender.join()
            until(lambda: not receiver.script and stored(receiver) >= count, 300)
            assert gateway.stop() == 0
        print(
            f"{len(receiver.requests)} requests, {receiver.repeats} repeats, {kills} kills, {len(script)} in the script"
        )
        assert receiver.conflicts == []
        records_ = receiver.records("readings")
        assert Counter((r.key, r.value) for r in records_) == Counter(flood(count))
        assert len({r.offset for r in records_}) == count
        assert receiver.repeats > 0
        if connections == 1:
            firsts = [int(r.headers["tidegate-first"]) for r in receiver.stored.values()]
            assert firsts == sorted(firsts), "in order"


@pytest.mark.timeout(120)
def test_single_records_survive_it_too_and_stay_in_order(tmp_path):
    dice = random.Random(11)
    some = [act for act in FAULTS if act.then != "hang"]
    script = dice.sample([*some, *[OK] * 180], 180 + len(some))
    count = 250
    with Mosquitto(tmp_path / "near") as near, WebReceiver(script) as receiver:
        url = receiver.url + "/{{key}}"
        with GatewayProcess(
            tmp_path,
            CONFIG.replace("/in/{{stream}}", ""),
            near=near.port,
            url=url.replace("{{", "{").replace("}}", "}"),
            format="raw",
            connections=1,
            records=50,
        ) as gateway:
            gateway.wait_for_line("driver:plant is up")
            publish(near.port, flood(count))
            until(lambda: len(receiver.stored) > 60, 60)
            gateway.kill()
            gateway.start()
            until(lambda: len(receiver.stored) == count, 90)
        assert receiver.conflicts == []
        stored_ = list(receiver.stored.values())
        assert [(r.headers["tidegate-key"], r.body) for r in stored_] == list(flood(count))
        assert all(r.target == "/" + r.headers["tidegate-key"].replace("/", "%2F") for r in stored_)


@pytest.mark.timeout(120)
def test_a_record_that_the_receiver_cannot_take_ends_alone_in_the_dead_letters(tmp_path):
    def decide(request):
        bad = [item for item in request.items() if item.value == b'{"n":777}']
        return Act(422, body=b'{"error":"n out of range"}') if bad else OK

    with Mosquitto(tmp_path / "near") as near, WebReceiver(decide=decide) as receiver:
        with GatewayProcess(
            tmp_path, CONFIG, near=near.port, url=receiver.url, format="ndjson", connections=1, records=500
        ) as gateway:
            gateway.wait_for_line("driver:plant is up")
            publish(near.port, flood(2_000))
            until(lambda: stored(receiver) == 1_999, 60)
            until(lambda: gateway.metric("tidegate_lag_records") == 0, 20)
            until(lambda: gateway.json("/api/v1/dead")["kept"] == 1, 20)
            letters = gateway.json("/api/v1/dead")
        assert receiver.conflicts == []
        assert Counter((r.key, r.value) for r in receiver.records("readings")) == Counter(
            one for one in flood(2_000) if one[1] != b'{"n":777}'
        )
        assert "422 Unprocessable" in str(letters)
        assert "n out of range" in str(letters)
