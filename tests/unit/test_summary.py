"""The sentence, case by case."""

import pytest

from gateway.summary import Destination, Figures, Part, duration, summary


def sink(name="cloud", state="up", **more):
    return Destination(name=name, state=state, **more)


def said(**figures):
    found = summary(Figures(**figures))
    return found.level, found.sentence


def test_all_is_well():
    assert said(sinks=[sink()]) == ("ok", "Everything delivered")
    assert said() == ("ok", "Everything recorded, no sink is configured")


def test_what_should_expire_and_does_not_is_told_as_long_as_the_clock_is_not_trusted():
    assert said(sinks=[sink()], clock_trusted=False) == (
        "attention",
        "Nothing expires by age: this machine's clock is not known to be right (timedatectl); everything delivered",
    )


def test_raised_alarms_are_told_and_change_no_level():
    assert said(sinks=[sink()], raised=3) == ("ok", "Everything delivered; 3 alarms raised")
    away = sink(state="waiting", since_s=90)
    assert said(sinks=[away], raised=1) == ("attention", "Cloud unreachable for 1 min, nothing waits; 1 alarm raised")


def test_what_its_batch_has_not_been_cut_for_yet_is_not_late():
    assert said(sinks=[sink(lag=40, oldest_s=9, batch_s=10)]) == ("ok", "Everything delivered")
    assert said(sinks=[sink(lag=1204, oldest_s=65, batch_s=10)]) == ("ok", "Delivering, 1,204 readings under way")
    assert said(sinks=[sink(lag=1, oldest_s=5 * 86_400, batch_s=7 * 86_400)])[0] == "ok"


def test_what_waits_clearly_longer_than_for_its_batch_is_under_way_and_not_delivered():
    assert said(sinks=[sink(lag=3, oldest_s=5.9, batch_s=1)]) == ("ok", "Everything delivered")
    assert said(sinks=[sink(lag=2550, oldest_s=6.1, batch_s=1)]) == ("ok", "Delivering, 2,550 readings under way")


def test_a_destination_that_takes_nothing_of_what_is_due_is_told_although_it_is_there():
    assert said(sinks=[sink(lag=2550, oldest_s=13, batch_s=1, still_s=12.5), sink("local")]) == (
        "attention",
        "Cloud takes nothing: 2,550 readings wait, the oldest for less than a minute",
    )
    assert said(sinks=[sink(lag=1, oldest_s=7200, batch_s=1, still_s=7190)])[1] == (
        "Cloud takes nothing: 1 reading waits, the oldest for 2 h"
    )
    assert said(sinks=[sink(lag=2550, oldest_s=13, batch_s=1, still_s=2)])[0] == "ok"  # it does take something
    assert said(sinks=[sink(lag=9, oldest_s=500, batch_s=600, still_s=500)])[0] == "ok"  # nothing is due


def test_a_destination_that_is_away_says_how_long_what_waits_and_how_long_the_room_does():
    away = sink(state="waiting", since_s=12 * 60, lag=48_210, room_s=9.5 * 86_400)
    assert said(sinks=[away]) == ("attention", "Cloud unreachable for 12 min: 48,210 readings wait, room for 9 days")
    reason = sink(state="waiting", since_s=5, lag=1, detail="connection refused; trying again in 4 s")
    assert said(sinks=[reason]) == (
        "attention",
        "Cloud unreachable for less than a minute (connection refused): 1 reading waits",
    )
    assert said(sinks=[sink(state="waiting", since_s=90)]) == (
        "attention",
        "Cloud unreachable for 1 min, nothing waits",
    )


def test_room_that_runs_out_is_trouble():
    assert said(sinks=[sink(state="waiting", since_s=7200, lag=9, room_s=3 * 3600)]) == (
        "trouble",
        "Cloud unreachable for 2 h: 9 readings wait, room for 3 h",
    )
    assert said(sinks=[sink(state="waiting", since_s=7200, lag=9, room_s=0)])[1].endswith("no room left: the oldest go")


def test_a_backlog_that_drains_is_told():
    assert said(sinks=[sink(lag=9_000, oldest_s=3 * 3600, batch_s=10)]) == (
        "attention",
        "Cloud catches up: 9,000 readings wait, the oldest for 3 h",
    )


def test_sources_that_are_away_or_silent():
    boiler = Part(name="boiler", state="waiting", detail="no such port", since_s=180)
    assert said(sinks=[sink()], drivers=[boiler]) == (
        "attention",
        "Boiler away for 3 min: no such port; everything delivered",
    )
    assert said(sinks=[sink()], drivers=[boiler] * 5)[1].startswith("Boiler and 4 more sources away for up to 3 min")
    quiet = Part(name="boiler", state="up", silent_s=3 * 3600)
    assert said(sinks=[sink()], drivers=[quiet]) == ("attention", "Boiler silent for 3 h; everything delivered")


def test_losses_and_dead_letters_ask_for_attention_while_they_are_news():
    assert said(sinks=[sink()], dead=2, dead_ago_s=30) == (
        "attention",
        "2 dead letters since the start (tidegate dead); everything delivered",
    )
    assert said(sinks=[sink()], dead=1, dead_ago_s=7200) == (
        "ok",
        "1 dead letter since the start (tidegate dead); everything delivered",
    )
    assert said(sinks=[sink()], lost={"temps": 1204}, lost_ago_s=0) == (
        "trouble",
        "1,204 records of temps are gone before everyone had them; everything delivered",
    )
    assert said(sinks=[sink()], lost={"a": 1, "b": 2}, lost_ago_s=None)[0] == "attention"


def test_the_log_that_takes_no_commits_comes_first():
    log = Part(name="log", state="waiting", detail="disk full; nothing is acknowledged")
    boiler = Part(name="boiler", state="waiting", detail="x")
    level, sentence = said(log=log, drivers=[boiler], sinks=[sink()])
    assert level == "trouble"
    assert sentence.startswith("The log has trouble with its disk: disk full; nothing is acknowledged; boiler away")


def test_what_stopped_by_a_defect_is_trouble():
    level, sentence = said(pipelines=[Part(name="typed", state="failed", detail="ValueError: x")], sinks=[sink()])
    assert (level, sentence) == ("trouble", "Typed stopped: ValueError: x; everything delivered")


def test_beginning_and_end():
    assert said(phase="starting") == ("attention", "Starting: the log is being recovered")
    assert said(phase="stopping")[0] == "attention"
    assert said(sinks=[sink(state="starting")]) == ("attention", "Connecting to cloud")


def test_a_refused_reload_is_told():
    assert "The last reload was refused for 2 mistakes" in said(sinks=[sink()], refused=2)[1]


def test_the_sentence_stays_short_whatever_is_wrong():
    sinks = [sink(f"cloud{i}", "waiting", lag=5, detail="x" * 10_000) for i in range(50)]
    level, sentence = said(sinks=sinks, dead=5, dead_ago_s=1)
    assert (level, len(sentence) < 1200) == ("attention", True)
    assert sentence.endswith("and 47 more")


@pytest.mark.parametrize(
    "seconds,words",
    [(0, "less than a minute"), (59.9, "less than a minute"), (60, "1 min"), (7199, "119 min"), (7200, "2 h"),
     (172_799, "47 h"), (172_800, "2 days"), (1e9, "11,574 days")],
)  # fmt: skip
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words
