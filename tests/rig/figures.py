"""What a gateway with a cloud that is away tells of itself, in the shapes of the status API."""

NOW = 1_790_000_000 * 10**9
S = 10**9


def status(**changes):
    parts = [("log", "up", ""), ("driver:boiler", "up", ""), ("sink:cloud", "waiting", "Connection refused")]
    told = {
        "gateway": "g",
        "version": "0.1.0",
        "epoch": "e",
        "uptime_s": 7200.0,
        "ready": True,
        "level": "attention",
        "sentence": "cloud unreachable for 12 min: 48,210 readings wait, room for 9 days",
        "now": NOW,
        "components": [
            {"name": name, "state": state, "detail": detail, "since": NOW - 720 * S, "restarts": 0, "bad_frames": []}
            for name, state, detail in parts
        ],
        "drivers": [
            {
                "name": "boiler", "kind": "serial", "streams": ["boiler"], "rate": 66.4, "records": 481_230,
                "bad_frames": 0, "state": "up", "detail": "", "since": NOW - 7200 * S, "restarts": 0,
            }
        ],
        "streams": [
            {
                "name": "boiler", "first": 100, "next": 481_230, "gone": 100, "lost": 0, "blocks": 58, "bytes": 1536,
                "priority": "normal", "rate": 66.4, "newest": NOW - S,
            },
            {
                "name": "alarms", "first": 0, "next": 2, "gone": 0, "lost": 0, "blocks": 0, "bytes": 0,
                "priority": "urgent", "rate": 0.0, "newest": None,
            },
        ],
        "readers": [
            {"reader": "sink:cloud", "stream": "boiler", "position": 433_020, "lag": 48_210, "oldest_unsent_s": 723.0}
        ],
        "pipelines": [
            {
                "name": "hot", "inputs": ["boiler"], "outputs": ["alarms"], "lag": 0, "rate": 0.01, "state": "up",
                "detail": "", "dead": 3, "filtered": 480_000, "late": 0,
            }
        ],
        "sinks": [
            {
                "name": "cloud", "kind": "mqtt", "streams": ["alarms", "boiler"], "rate": 0.0, "delivered": 433_020,
                "lag": 48_210, "oldest_unsent_s": 723.0, "wire_bytes": 4_800_000, "state": "waiting",
                "detail": "Connection refused", "since": NOW - 720 * S, "restarts": 0,
            }
        ],
        "log": {
            "path": "/var/lib/tidegate", "bytes": 1 << 20, "limit_bytes": 2 << 30, "device_bytes": 9, "commits": 1,
            "seals": 58, "horizon_s": 7200.0, "room_s": 777_600.0,
        },
        "loss_window_records": 12,
        "viewers": 0,
        "config": {"files": ["/etc/tidegate/tidegate.yaml"], "loaded": NOW - 7200 * S, "reloads": 0, "problems": []},
    }  # fmt: skip
    return told | changes


def history():
    steps = range(360)
    return {
        "step_s": 10,
        "until": NOW,
        "series": {
            "in": [None] * 60 + [60 + n % 7 for n in steps][60:],
            "out": [None] * 60 + [0 if n > 288 else 60.0 for n in steps][60:],
            "waiting": [None] * 60 + [max(0, n - 288) * 670 for n in steps][60:],
            "log_bytes": [1 << 20] * 360,
        },
    }


def dead():
    record = {
        "offset": 7, "time": NOW, "by": "pipeline:hot", "step": "decode", "reason": "v is str, not float",
        "stream": "boiler", "source_offset": 4711, "key": "site/a", "value": {"v": "broken"}, "raw": '{"v":"broken"}',
        "more": 0,
    }  # fmt: skip
    return {
        "total": 3,
        "suppressed": 0,
        "reasons": [{"by": "pipeline:hot", "step": "decode", "reason": "v is str, not float", "count": 3, "last": NOW}],
        "records": [record, {**record, "offset": 6, "key": "\x1b[31msite", "raw": "[red]\\xff" * 20}],
    }
