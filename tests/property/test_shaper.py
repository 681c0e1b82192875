"""Whatever the turns, commits, snapshots and kills: what pipelines derive is the same, once, in the same order."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from shaped import Shaped

PIPELINES = {
    "both": {
        "from": ["a", "b"],
        "schema": {"v": "int"},
        "steps": [{"filter": "v >= 0"}, {"emit": {"v": "v"}}],
        "to": "merged",
    },
    "sums": {
        "from": ["b", "a"],
        "schema": {"t": "time[s]", "v": "int"},
        "time": {"event": "t", "lateness": "1s", "max_ahead": "1000d", "idle": "5s"},
        "steps": [{"window": {"tumbling": "10s", "agg": {"n": "count()", "first": "first(v)", "last": "last(v)"}}}],
        "to": "sums",
    },
    "alarms": {
        "from": "a",
        "schema": {"v": "int"},
        "steps": [
            {"alarm": {"name": "low", "raise_when": "v % 9 < 7", "hold": "8s", "with": ["v"], "to": "alarms"}},
            {"dedupe": {"by": "v % 4", "within": "5s"}},
            {"throttle": {"every": "2s", "n": 2}},
            {"route": [{"when": "v % 2 == 0", "to": "even"}]},
        ],
        "to": "odd",
    },
    "chain": {
        "from": ["merged", "sums", "alarms"],
        "steps": [],
        "to": "all",
    },
}

STREAMS = ("merged", "sums", "alarms", "even", "odd", "all", "_dead")

moves = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("ab"), st.integers(1, 5)),
        st.just(("commit", 0)),
        st.just(("turn", 0)),
        st.tuples(st.just("sleep"), st.integers(1, 12)),
    ),
    min_size=20,
    max_size=80,
)


def play(steps, *, disturbed, seed=0) -> dict[str, list]:
    with tempfile.TemporaryDirectory() as folder:
        house = Shaped(Path(folder), PIPELINES, seal=7)
        count = 0
        for number, (move, size) in enumerate(steps):
            if move in "ab":
                house.record(move, *[b'{"t":%d,"v":%d}' % (1_790_000_000 + count + n, count + n) for n in range(size)])
                count += size
            elif move == "commit":
                house.commit(snapshots=disturbed and (number * 7 + seed) % 3 == 0)
                if disturbed and (number * 5 + seed) % 2 == 0:
                    house.kill()
            elif move == "turn":
                if disturbed:  # turns are ours to make or not: they must not show in what comes out
                    house.turn()
            else:
                house.clock.ns += size * 1_000_000_000
        house.commit()
        try:
            return {stream: house.records(stream) for stream in STREAMS}
        finally:
            house.log.close()


@settings(max_examples=120, deadline=None)
@given(moves, st.integers(0, 5))
def test_kills_turns_and_snapshots_do_not_show_in_what_is_derived(steps, seed):
    assert play(steps, disturbed=True, seed=seed) == play(steps, disturbed=False)
