"""Options, filters and routing: what is refused, in which words, and which topic goes where."""

import msgspec
import pytest

from drivers.mqtt import EXAMPLE as DRIVER_EXAMPLE
from drivers.mqtt import Options as DriverOptions
from gateway.mqtt import NOWHERE, Router, filter_problem, matches
from gateway.quantity import option_hook
from sinks.mqtt import EXAMPLE as SINK_EXAMPLE
from sinks.mqtt import Options as SinkOptions


def convert(kind, **options):
    return msgspec.convert(options, kind, dec_hook=option_hook)


def driver(**options):
    return convert(DriverOptions, **{"url": "mqtt://b", "subscribe": ["a/#"], "stream": "s", **options})


def sink(**options):
    return convert(SinkOptions, **{"url": "mqtt://b", "topic": "gw/{stream}", **options})


def test_the_examples_are_valid_options():
    import yaml

    plain = yaml.safe_load(DRIVER_EXAMPLE)
    plain.pop("driver")
    assert convert(DriverOptions, **plain).streams() == ["freezers", "doors"]
    plain = yaml.safe_load(SINK_EXAMPLE)
    for of_the_house in ("sink", "streams", "format"):
        plain.pop(of_the_house)
    assert convert(SinkOptions, **plain).address.tls


def test_every_option_is_explained():
    for options in (DriverOptions, SinkOptions):
        for field in msgspec.structs.fields(options):
            assert any(field.name in line.split(":")[0] for line in options.__doc__.splitlines() if ":" in line), (
                f"{field.name} is not in the docstring"
            )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "broker:1883"}, "write mqtt://host:1883"),
        ({"url": "mqtt://me:secret@b"}, "username and password_file"),
        ({"url": "mqtt://b/topic"}, "nothing more"),
        ({"url": "mqtt://b:99999"}, "has no port from 1 to 65535"),
        ({"ca_file": "/ca.pem"}, "mqtts://"),
        ({"url": "ws://b/mqtt", "ca_file": "/ca.pem"}, "wss://"),
        ({"url": "ws://b/mqtt?token=1"}, "nothing more; write ws://host:port/mqtt"),
        ({"url": "ws://b/a\u00e4"}, "written like %20"),
        ({"url": "http://b/mqtt"}, "is no broker"),
        ({"version": 4}, "Invalid enum value 4"),
        ({"version": "3.1.1"}, "Invalid enum value"),
        ({"url": "mqtts://b", "cert_file": "/c.pem"}, "belong together"),
        ({"password_file": "/p"}, "needs a username"),
        ({"key_password_file": "/p"}, "needs a key_file"),
        ({"status_topic": ""}, "write it like gw/{gateway}/status"),
        ({"status_topic": "gw/+/status"}, "holds neither + nor #"),
        ({"status_topic": "$SYS/g"}, "the broker's own"),
        ({"status_topic": "gw/{name}"}, "only {gateway} can be filled in"),
        ({"status_topic": "gw/{gateway"}, "only {gateway} can be filled in"),
        ({"status_every": "9s"}, "status_every must be at least 10s"),
        ({"offline_after": "2d"}, "offline_after must be between 0s and 1d"),
        ({"subscribe": ["$share/a"]}, "$share/group/filter"),
        ({"subscribe": ["$share/+/a"]}, "$share/group/filter"),
        ({"subscribe": ["$share/g/a/#/b"]}, "# must stand alone at the end"),
        ({"keepalive": "100ms"}, "keepalive"),
        ({"max_packet": "10B"}, "max_packet"),
        ({"subscribe": []}, "length >= 1"),
        ({"subscribe": ["a/#/b"]}, "# must stand alone at the end"),
        ({"subscribe": ["a/b+"]}, "+ must stand alone"),
        ({"subscribe": ["$share/a/b", {"filter": "x"}], "stream": None}, "has no stream"),
        ({"subscribe": [{"filter": "x", "qos": 2}]}, "Invalid enum value 2"),
        ({"retained": "keep"}, "Invalid enum value"),
        ({"receive_maximum": 0}, ">= 1"),
    ],
)
def test_a_wrong_driver_option_is_refused_in_words(options, words):
    with pytest.raises(msgspec.ValidationError) as refused:
        driver(**options)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://b", ("b", 1883, False, "")),
        ("mqtts://b/", ("b", 8883, True, "")),
        ("ws://b", ("b", 80, False, "/mqtt")),
        ("wss://b:8443/", ("b", 8443, True, "/mqtt")),
        ("wss://[::1]/ws/a%20b", ("::1", 443, True, "/ws/a%20b")),
    ],
)
def test_a_url_says_where_a_broker_is(url, address):
    assert tuple(sink(url=url).address) == address


def test_one_name_at_a_broker_is_claimed_by_one_entry():
    mine = driver(status_topic="gw/{gateway}/status").claims("g1", "cloud")
    assert mine == {
        "client_id": "the client id 'tidegate-g1-cloud' at b:1883",
        "status_topic": "the status topic 'gw/g1/status' at b:1883",
    }
    assert sink().claims("g1", "cloud")["client_id"] == mine["client_id"]
    assert sink(client_id="other").claims("g1", "cloud")["client_id"] != mine["client_id"]
    assert sink(url="mqtt://b:1884").claims("g1", "cloud")["client_id"] != mine["client_id"]


def test_a_password_in_the_open_is_warned_of_but_not_to_ourselves():
    login = {"username": "u", "password_file": "/p"}
    assert [warning.path for warning in sink(**login).warnings()] == [("url",)]
    (told,) = sink(url="ws://b/mqtt", **login).warnings()
    assert "write wss://" in str(told)
    for url in ("mqtts://b", "wss://b", "ws://localhost", "mqtt://localhost", "mqtt://127.0.0.1:1883", "mqtt://[::1]"):
        assert not sink(url=url, **login).warnings()


def warned(options):
    return [(one.path, str(one)) for one in options.warnings()]


def test_what_an_older_version_lacks_is_warned_of_where_it_matters_and_nowhere_else():
    assert not warned(driver(version=3))
    assert not warned(driver(status_topic="gw/s"))
    assert not warned(sink(topic="gw/{stream}"))
    shared = driver(version=3, status_topic="gw/s", subscribe=["$share/g/a"])
    paths = [path for path, _ in warned(shared)]
    assert paths == [("status_topic",), ("subscribe", 0), ("subscribe", 0)]
    for asked in ({"session_expiry": "30d"}, {"receive_maximum": 10}, {"retained": "record"}):
        assert [path for path, _ in warned(driver(version=3, **asked))] == [tuple(asked)]
        assert not warned(driver(**asked))
    assert [path for path, _ in warned(sink(version=3))] == [("topic",)]
    for topic in ("gw/{id}", "gw/{stream}/{epoch}/{first}", "gw/{key}"):
        assert not warned(sink(version=3, topic=topic))
    with pytest.raises(msgspec.ValidationError, match="write {id} and {offset} into the topic"):
        sink(version=3, ids=True)


def test_retained_messages_under_topics_of_their_own_are_warned_of():
    assert [path for path, _ in warned(sink(topic="gw/{id}", retain=True))] == [("retain",)]
    assert not warned(sink(topic="gw/{stream}", retain=True))


def test_a_misspelt_place_in_a_topic_is_understood():
    with pytest.raises(msgspec.ValidationError, match=r"did you mean \{stream\}\?"):
        sink(topic="gw/{strem}")
    with pytest.raises(msgspec.ValidationError, match=r"write mqtt://host:1883"):
        sink(url="mqtt:/127.0.0.1")


def test_a_key_in_the_topic_needs_a_message_per_record():
    assert sink(topic="gw/{key}").problem_with("raw") is None
    assert sink(topic="gw/{stream}").problem_with("ndjson") is None
    for topic in ("gw/{key}", "gw/{id}/{offset}"):
        assert "format: raw" in sink(topic=topic).problem_with("ndjson+zstd")


@pytest.mark.parametrize("topic", ["", "a/#", "a/+", "gw/{name}", "gw/{stream"])
def test_a_wrong_topic_template_is_refused(topic):
    with pytest.raises(msgspec.ValidationError):
        sink(topic=topic)


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/b", "A/b", False),
        ("a/+", "a/b", True),
        ("a/+", "a/", True),
        ("a/+", "a", False),
        ("a/+", "a/b/c", False),
        ("+/b", "/b", True),
        ("+", "/b", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("#", "a/b", True),
        ("#", "$SYS/uptime", False),
        ("+/uptime", "$SYS/uptime", False),
        ("$SYS/#", "$SYS/uptime", True),
        ("a/+/c/#", "a/b/c", True),
    ],
)
def test_filters_match_as_mqtt_says(pattern, topic, expected):
    assert filter_problem(pattern) is None
    assert matches(pattern, topic) is expected


def test_the_first_filter_that_matches_names_the_stream_and_nothing_else_gets_one():
    router = Router([("site/+/door", "doors"), ("$share/g/site/#", "rest")])
    router.learn(["site/a/door", "site/a/temp", "other", "site/+", "site/\0"])
    assert router.streams == {
        "site/a/door": "doors",
        "site/a/temp": "rest",
        "other": NOWHERE,
        "site/+": NOWHERE,
        "site/\0": NOWHERE,
    }
    assert router.only is None


def test_a_flood_of_topics_does_not_fill_the_memory():
    router = Router([("#", "s")])
    for n in range(300):
        router.learn([f"{n}/" + "x" * 60_000])
    assert sum(map(len, router.keys)) <= 4 << 20
    router.learn(["a"])
    assert router.only == "s"
