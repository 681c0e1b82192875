"""Whatever the turns, commits and kills: letters and what they tell of add up to all failures, exactly."""

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from shaped import Shaped

PIPELINES = {
    "first": {"from": "in", "schema": {"v": "int"}, "steps": [{"emit": {"v": "10 // v"}}], "to": "out"},
    "second": {"from": ["in", "more"], "schema": {"v": "int"}, "steps": [{"filter": "v > 0"}], "to": "both"},
}
PAYLOADS = {"good": b'{"v":1}', "zero": b'{"v":0}', "text": b'{"v":"x"}', "broken": b"{{"}

moves = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(sorted(PAYLOADS)), st.integers(1, 300)),
        st.tuples(st.just("turn"), st.just(0)),
        st.tuples(st.just("commit"), st.just(0)),
        st.tuples(st.just("kill"), st.just(0)),
        st.tuples(st.just("sleep"), st.integers(1, 30)),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(moves)
def test_letters_and_what_they_tell_of_are_all_failures_whatever_the_kills(steps):
    with tempfile.TemporaryDirectory() as folder:
        house = Shaped(Path(folder), PIPELINES, seal=50)
        for move, n in steps:
            if move in PAYLOADS:
                house.record("in", *[PAYLOADS[move]] * n)
                house.record("more", *[PAYLOADS[move]] * (n // 2))
            elif move == "turn":
                house.turn()
            elif move == "sleep":
                house.clock.ns += n * 100_000_000
            else:
                if move == "commit":
                    house.commit()
                else:
                    house.kill()
        house.commit()
        kept = [record.value for record in house.records("in")], [record.value for record in house.records("more")]
        expected = {
            "first": sum(value != PAYLOADS["good"] for value in kept[0]),
            "second": sum(value in (PAYLOADS["text"], PAYLOADS["broken"]) for part in kept for value in part),
        }
        told = dict.fromkeys(expected, 0)
        for value in house.values("_dead"):
            letter = json.loads(value)
            told[letter["by"]] += 1 + letter.get("more", 0)
        house.log.close()
        assert told == expected
