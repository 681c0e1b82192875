"""A call to the disk fails, at every place there is: nothing is acknowledged falsely, and the daemon is well again by itself.

The real daemon; the layer under its file calls, and under SQLite's, fails the K-th of those that change something, once or
until the fault is taken away (tests/rig/failing.py). What it says of each case is checked here.
"""

import json
import os
import subprocess
import sys

import pytest
from disk import library
from power import CONFIG, RIG

pytestmark = pytest.mark.fault

LAST = 240  # changes of a first start, some commits, seals, two turnovers
KINDS = [f"{code}:{held}" for held in ("0", "0.5") for code in ("EIO", "ENOSPC", "EROFS")]


def told(folder, *cases: str) -> list[dict]:
    layer, config = library(folder), folder / "tidegate.yaml"
    config.write_text(CONFIG.format(port=0, root="ROOT", seed=1))
    run = subprocess.run(
        [sys.executable, str(RIG / "failing.py"), str(config), *cases],
        env=os.environ | {"LD_PRELOAD": str(layer), "PYTHONPATH": os.pathsep.join([str(RIG.parent.parent), str(RIG)])},
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.timeout(3600)
def test_whatever_call_fails_nothing_is_acknowledged_falsely_and_all_is_well_again_by_itself(tmp_path, full):
    places = range(1, LAST) if full else range(1, LAST, 5)
    cases = [f"{k}:{kind}" for k in places for kind in (KINDS if full else [KINDS[k // 5 % len(KINDS)]])]
    answers = told(tmp_path, *cases)
    assert len(answers) == len(cases)
    slowest = max(answer["well_s"] for answer in answers)
    print(
        f"{len(answers)} faults, {sum(answer['failures'] for answer in answers)} failed calls, "
        f"{sum(answer['restarts'] for answer in answers)} restarts, {sum(answer['cuts'] for answer in answers)} cuts "
        f"afterwards; well again after {slowest:.1f} s at most"
    )
    assert [answer for answer in answers if answer["broken"]] == []
    assert [answer for answer in answers if not 0 <= answer["well_s"] <= 30] == []
    held = [answer for answer in answers if not answer["case"].endswith(":0")]
    assert all(answer["told"] for answer in held), (
        "a fault that lasts is said, by the status or by the daemon as it ends"
    )
    assert len({answer["told"][0] for answer in held}) >= 3


def test_the_proof_notices_what_is_acknowledged_before_its_commit(tmp_path):
    (answer,) = told(tmp_path, "early-ack", "150:EIO:0.5")
    assert {"lost", "early"} & set(answer["broken"])
