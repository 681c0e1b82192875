"""What is proposed for payloads: types, units of times, what may be missing, what is left out and why."""

import pytest
from shaping import NOON, S

from pipelines.language.infer import MOST_FIELDS, Inference


def proposal(*payloads, arrival=NOON, zone="Europe/Berlin"):
    made = Inference(zone)
    for payload in payloads:
        made.add(payload, arrival)
    return made.propose()


def test_types_are_those_of_all_payloads():
    found = proposal({"a": 1, "b": 1, "c": "x", "d": True, "e": None}, {"a": 2, "b": 2.5, "c": "y", "d": False, "e": 1})
    assert found.schema == {"a": "int", "b": "float", "c": "str", "d": "bool", "e": "int?"}
    assert found.notes == []


def test_what_is_not_always_there_may_be_missing_and_inside_of_what_is_not_always_there_too():
    found = proposal({"v": 1, "in": {"side": 1}}, {"v": 1, "rh": 40}, {"v": 1, "in": None}, {"v": 1})
    assert found.schema == {"v": "int", "'in'.side": "int?", "rh": "int?"}
    assert found.comments["rh"] == "in 25 %; 40"


@pytest.mark.parametrize(
    ("value", "kind", "comment"),
    [
        (NOON // S, "time", "seconds since 1970"),
        (NOON / S + 0.25, "time", "seconds since 1970"),
        (NOON // 10**6, "time[ms]", "ms since 1970"),
        (NOON // 10**3, "time[us]", "us since 1970"),
        (NOON, "time[ns]", "ns since 1970"),
        ("2025-11-23T12:00:00Z", "time", "ISO-8601"),
        ("2025-11-23 13:00:00", "time", "ISO-8601 without a zone"),
    ],
)
def test_times_are_recognised_with_their_unit_by_being_close_to_the_arrival(value, kind, comment):
    found = proposal({"x": value}, {"x": value})
    assert found.schema == {"x": kind}
    assert found.comments["x"] == comment
    assert found.event == "x"


def test_an_old_number_is_a_time_only_where_its_name_says_so():
    found = proposal({"count": 1_500_000_000, "last_seen_ts": 1_500_000_000, "updated_at": 1_500_000_000_000})
    assert found.schema == {"count": "int", "last_seen_ts": "time", "updated_at": "time[ms]"}


@pytest.mark.parametrize(
    ("text", "zone", "note"),
    [
        ("2025-11-23T12:59:58", "Europe/Berlin", "times without a zone fit Europe/Berlin"),
        ("2025-11-23T11:59:58", "UTC", "times without a zone fit UTC"),
        (
            "2024-01-01T00:00:00",
            "Europe/Berlin",
            "times without a zone are taken to be of Europe/Berlin; correct `zone:` if the device differs",
        ),
    ],
)
def test_times_without_a_zone_get_the_one_that_fits_their_arrival_or_a_warning(text, zone, note):
    found = proposal({"Time": text}, {"Time": text})
    assert (found.event, found.zone, found.notes) == ("Time", zone, [note])
    assert f"time: {{event: Time, zone: {zone}}}" in found.yaml()


def test_a_clock_that_is_ahead_is_not_proposed_as_the_event_time():
    found = proposal({"ts": NOON // S + 3600, "sent": NOON // S})
    assert found.event == "sent"
    assert found.notes == ["ts runs ahead of our clock, so it is not proposed as the event time"]


def test_odd_names_are_quoted_and_those_that_mean_something_else_in_expressions_are_explained():
    found = proposal({"switch:0": {"apower": 1.5}, "a b": 1, "key": "x", "SENSOR": {"DS18B20-1": {"T": 1}}})
    assert list(found.schema) == ["'switch:0'.apower", "'a b'", "key", "SENSOR.'DS18B20-1'.T"]
    assert found.comments["'a b'"] == "1; in expressions payload.'a b'"
    assert found.comments["key"] == "as 'x'; in expressions payload.key"
    assert """  "'switch:0'.apower": float""" in found.yaml()


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([[1, 2], []], "it is a list"),
        ([1, "nan"], "it is a number and sometimes text"),
        ([True, 1], "it is true or false and sometimes a number"),
        ([{"a": 1}, 2], "it is a number and sometimes an object"),
        ([None, None], "it was always null"),
        (["x" * 5000], "more than 4096 characters"),
        ([2**70], "too large"),
    ],
)
def test_what_the_language_cannot_hold_is_left_out_and_said(values, why):
    found = proposal(*[{"x": value, "v": 1} for value in values])
    assert found.schema == {"v": "int"}
    assert len(found.notes) == 1
    assert found.notes[0].startswith("x is left out: ")
    assert why in found.notes[0]


def test_names_without_end_are_bounded_and_said():
    made = Inference()
    for n in range(3_000):
        made.add({f"sensor{n}": n, "deep": {"er": {f"x{n}": 1}}}, NOON)
    found = made.propose()
    assert len(made._fields) <= 2 * MOST_FIELDS
    assert len(found.schema) <= MOST_FIELDS
    assert any("more than" in note for note in found.notes)


def test_few_texts_are_told_and_nothing_from_outside_reaches_the_terminal_or_the_yaml_as_it_came():
    found = proposal(*[{"unit": "C", "s": "\x1b[31m\nx: 1"}, {"unit": "F", "s": "\x1b[31m\nx: 1"}] * 3)
    assert found.comments["unit"] == "'C' or 'F'"
    assert "\x1b" not in found.yaml()
    assert len(found.yaml().splitlines()) == 3


def test_payloads_fit_together_where_most_of_their_fields_are_the_same():
    def of(*payloads):
        made = Inference()
        for payload in payloads:
            made.add(payload, NOON)
        return made

    climate = of({"t": 1.0, "rh": 40})
    assert climate.fits(of({"t": 2}))
    assert not climate.fits(of({"t": "broken", "rh": 40}))
    assert not climate.fits(of({"open": True}))
    assert not climate.fits(of({"t": 1.0, "a": 1, "b": 1, "c": 1}))
