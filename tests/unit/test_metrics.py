import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import BUCKETS, SERIES, Metrics


def samples(metrics):
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_what_is_counted_is_what_prometheus_reads():
    metrics = Metrics()
    metrics.add("records_in_total", 5, driver="a", stream="s")
    metrics.add("records_in_total", 2, stream="s", driver="a")
    metrics.add("records_in_total", driver="b", stream='quo"te\n')
    metrics.set("lag_records", 7, reader="sink:x", stream="s")
    metrics.set("lag_records", 3, reader="sink:x", stream="s")
    read = samples(metrics)
    assert read["tidegate_records_in_total", (("driver", "a"), ("stream", "s"))] == 7
    assert read["tidegate_records_in_total", (("driver", "b"), ("stream", 'quo"te\n'))] == 1
    assert read["tidegate_lag_records", (("reader", "sink:x"), ("stream", "s"))] == 3


def test_every_observation_is_in_all_buckets_that_reach_it():
    metrics = Metrics()
    for seconds in (0.0005, 0.001, 0.3, 1000.0):
        metrics.observe("commit_seconds", seconds)
    read = samples(metrics)
    buckets = [read["tidegate_commit_seconds_bucket", (("le", str(bound)),)] for bound in BUCKETS]
    assert buckets == sorted(buckets)
    assert (buckets[0], buckets[-1]) == (2, 3)
    assert read["tidegate_commit_seconds_bucket", (("le", "+Inf"),)] == 4
    assert read["tidegate_commit_seconds_count", ()] == 4
    assert read["tidegate_commit_seconds_sum", ()] == pytest.approx(1000.3015)


def test_every_known_series_can_be_exposed_with_its_help():
    metrics = Metrics()
    for name, series in SERIES.items():
        if series.kind == "histogram":
            metrics.observe(name, 0.1)
        else:
            metrics.set(name, 1)
    families = list(text_string_to_metric_families(metrics.exposition().decode()))
    assert len(families) == len(SERIES)
    assert all(family.documentation and family.name.startswith("tidegate_") for family in families)


def test_one_series_may_be_counted_with_and_without_a_label():
    metrics = Metrics()
    metrics.add("dead_total", 2, reason="rejected")
    metrics.add("dead_total", 1)
    assert metrics.value("dead_total") == 3
    assert samples(metrics)["tidegate_dead_total", (("reason", ""),)] == 1


def test_a_plugin_may_count_its_own_and_a_typing_error_is_told():
    metrics = Metrics()
    metrics.add("hiccups_total", 2, driver="x")
    assert samples(metrics)["tidegate_hiccups_total", (("driver", "x"),)] == 2
    for wrong in ("hiccups", "Hiccups_total", "bad name_total", "lag_records", "commit_seconds"):
        with pytest.raises(ValueError):
            metrics.add(wrong)
    with pytest.raises(ValueError):
        metrics.observe("commits_total", 1.0)


def test_the_snapshot_is_plain_sorted_data():
    metrics = Metrics()
    metrics.observe("commit_seconds", 0.5)
    metrics.add("commits_total", 3)
    assert metrics.snapshot() == [
        ("commit_seconds_count", (), 1),
        ("commit_seconds_sum", (), 0.5),
        ("commits_total", (), 3),
    ]


def test_a_reader_that_is_gone_leaves_no_gauge_but_its_counts():
    metrics = Metrics()
    metrics.set("lag_records", 3, reader="sink:x", stream="s")
    metrics.set("lag_records", 4, reader="sink:y", stream="s")
    metrics.add("delivered_total", 9, sink="x", stream="s")
    metrics.forget(reader="sink:x")
    assert metrics.value("lag_records") == 4
    assert metrics.value("delivered_total", sink="x") == 9


def test_numbers_become_records_with_a_key_each_in_one_order_and_bounded(monkeypatch):
    counted = Metrics()
    counted.add("delivered_total", 3, sink="cloud", stream="temps")
    counted.set("lag_records", 12, reader="sink:cloud", stream="temps")
    counted.set("uptime_seconds", 1.25)
    counted.observe("commit_seconds", 0.1234567)
    keys, values = counted.records()
    assert keys == [
        "tidegate_commit_seconds_count",
        "tidegate_commit_seconds_sum",
        "tidegate_delivered_total{sink=cloud,stream=temps}",
        "tidegate_lag_records{reader=sink:cloud,stream=temps}",
        "tidegate_uptime_seconds",
    ]
    assert values[1] == b'{"name":"tidegate_commit_seconds_sum","value":0.123457}'
    assert values[3] == b'{"name":"tidegate_lag_records","value":12,"reader":"sink:cloud","stream":"temps"}'
    monkeypatch.setattr("gateway.metrics.MOST_SERIES", 2)
    assert len(counted.records()[0]) == 2
    assert counted.value("metrics_left_out_total") == 3


def test_what_a_step_counts_under_a_name_of_its_own_is_a_gauge():
    metrics = Metrics()
    metrics.set("pipeline_swallowed", 3, pipeline="p")
    text = metrics.exposition().decode()
    assert "# TYPE tidegate_pipeline_swallowed gauge" in text
    assert 'tidegate_pipeline_swallowed{pipeline="p"} 3' in text
