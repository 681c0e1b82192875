"""What a reload would stop and start: what differs, and nothing else."""

from gateway.config import LIVE, changes, load

BASE = """\
gateway: {id: g1}
log: {path: log}
drivers:
  plant: {driver: mqtt, url: "mqtt://localhost", subscribe: ["plant/#"], stream: readings}
  lab: {driver: simulated, stream: lab}
pipelines:
  typed: {from: readings, schema: {v: float}, steps: [{filter: v > 0}], to: positive}
sinks:
  cloud: {sink: mqtt, url: "mqtt://localhost", username: u, password_file: pw, topic: "gw/{stream}", streams: [positive]}
  disk: {sink: file, path: out, streams: [lab]}
"""


def between(tmp_path, new: str, old: str = BASE):
    (tmp_path / "pw").write_text("secret")
    for name, text in (("old.yaml", old), ("new.yaml", new)):
        (tmp_path / name).write_text(text)
    return changes(load(tmp_path / "old.yaml"), load(tmp_path / "new.yaml"))


def told(found) -> list[str]:
    words = found.drivers.words("driver") + found.pipelines.words("pipeline") + found.sinks.words("sink")
    return [*words, *found.streams, *found.settings]


def test_the_same_text_is_no_change(tmp_path):
    assert told(between(tmp_path, BASE)) == []


def test_comments_and_order_are_no_change(tmp_path):
    lines = BASE.splitlines()
    swapped = [*lines[:3], lines[4], lines[3], "# a word", *lines[5:]]
    assert told(between(tmp_path, "\n".join(swapped))) == []


def test_each_entry_is_named_with_what_became_of_it(tmp_path):
    new = BASE.replace("v > 0", "v > 1").replace("username: u", "username: v").replace("disk:", "drive:")
    assert told(between(tmp_path, new)) == [
        "pipeline typed changed",
        "sink drive added",
        "sink cloud changed",
        "sink disk removed",
    ]


def test_a_stream_that_becomes_urgent_changes_those_who_feed_and_deliver_it(tmp_path):
    new = BASE + "streams: {lab: {priority: urgent}}\n"
    assert told(between(tmp_path, new)) == ["driver lab changed", "sink disk changed", "lab"]


def test_settings_of_the_house_are_told_by_their_names(tmp_path):
    new = BASE.replace("{path: log}", "{path: log, size: 1GiB, commit: 2s}")
    assert told(between(tmp_path, new)) == ["log.size", "log.commit"]


def test_how_often_the_log_commits_is_taken_without_a_start(tmp_path):
    new = BASE.replace("{path: log}", "{path: log, commit: 2s, wear: 300MB/day, commit_max: 20s, endurance: 8TB}")
    assert set(told(between(tmp_path, new))) <= set(LIVE)
