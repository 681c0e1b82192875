"""The page over a gateway that is made up: any status one can think of, at once, and the browser that looks at it."""

import contextlib
import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import sync_playwright

PHONE, DESKTOP = (360, 740), (1440, 900)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
KINDS = {"html": "text/html; charset=utf-8", "js": "text/javascript", "css": "text/css"}
COLUMNS = 360  # of a history
STATIC = resources.files("gateway.status") / "static"


def part(name, kind, streams, rate=0.0, state="up", detail="", **more):
    since = time.time_ns() - 7_000_000_000_000
    return {
        "name": name,
        "kind": kind,
        "streams": streams,
        "rate": rate,
        "state": state,
        "detail": detail,
        "since": since,
        "restarts": 0,
        **more,
    }


def driver(name, kind, streams, rate=0.0, **more):
    return part(name, kind, streams, rate, **{"records": int(rate * 5000), "bad_frames": 0, **more})


def sink(name, kind, streams, rate=0.0, **more):
    figures = {"delivered": int(rate * 5000), "lag": 0, "oldest_unsent_s": None, "wire_bytes": int(rate * 50000)}
    return part(name, kind, streams, rate, **{**figures, **more})


def pipeline(name, inputs, outputs, rate=0.0, **more):
    counts = {"dead": 0, "filtered": 0, "late": 0, "evicted": 0, "keys": 40, "windows": 40, "lag": 0}
    row = part(name, "", [], rate, **{**counts, **more})
    del row["kind"], row["streams"]
    return {**row, "inputs": inputs, "outputs": outputs}


def stream(name, rate=0.0, **more):
    figures = {"first": 0, "next": int(rate * 5000), "bytes": int(rate * 90000), "gone": 0, "lost": 0, "blocks": 3}
    return {"name": name, "rate": rate, "newest": time.time_ns(), "priority": "normal", **figures, **more}


def status(drivers=(), streams=(), pipelines=(), sinks=(), **more):
    """A whole status; the parts that are given, and the rest calm."""
    rows = [("driver", d) for d in drivers] + [("pipeline", p) for p in pipelines] + [("sink", s) for s in sinks]
    components = [
        {
            "name": f"{kind}:{row['name']}",
            "bad_frames": [],
            **{k: row[k] for k in ("state", "detail", "since", "restarts")},
        }
        for kind, row in rows
    ]
    readers = [
        {"reader": f"sink:{row['name']}", "stream": s, "position": 7, "lag": row["lag"], "oldest_unsent_s": None}
        for row in sinks
        for s in row["streams"]
    ]
    return {
        "gateway": "greenhouse-7",
        "version": "0.1.0",
        "epoch": "9f0c2ab87d1e4c55",
        "uptime_s": 7230.0,
        "ready": True,
        "sentence": "Everything delivered",
        "level": "ok",
        "now": time.time_ns(),
        "components": components,
        "drivers": list(drivers),
        "streams": list(streams),
        "pipelines": list(pipelines),
        "sinks": list(sinks),
        "readers": readers,
        "log": {
            "path": "/var/lib/tidegate",
            "bytes": 530 << 20,
            "limit_bytes": 2 << 30,
            "device_bytes": 610 << 20,
            "commits": 7100,
            "horizon_s": 9.3 * 86400,
            "room_s": 26 * 86400.0,
        },
        "loss_window_records": 0,
        "viewers": 1,
        "config": {
            "files": ["/etc/tidegate/tidegate.yaml", "/etc/tidegate/pipelines/freezers.yaml"],
            "loaded": time.time_ns() - 7_200_000_000_000,
            "reloads": 2,
            "problems": [],
        },
        **more,
    }


def greenhouse(**more):
    """A gateway as there will be many: two drivers, two pipelines, two sinks."""
    return status(
        [driver("sensors", "mqtt", ["freezers", "doors"], 412.0), driver("boiler", "serial", ["boiler"], 10.2)],
        [stream("freezers", 396.0), stream("doors", 0.2), stream("boiler", 10.2), stream("freezer-temps", 40.1)]
        + [stream("alarms", 0.001, priority="urgent"), stream("_dead", 0.0)],
        [pipeline("freezer-alarm", ["freezers"], ["freezer-temps", "alarms"], 40.1, filtered=3201, dead=2)]
        + [pipeline("boiler-means", ["boiler"], ["boiler-means"], 1.0)],
        [sink("cloud", "mqtt", ["alarms", "freezer-temps", "boiler-means"], 41.1)]
        + [sink("local", "mqtt", ["freezer-temps", "doors"], 40.3)],
        **more,
    )


def history(names, *, length=COLUMNS, shape=None):
    """An hour of every series named; `shape(name, i)` gives a number or None."""
    shape = shape or (lambda name, i: round(400 + 60 * math.sin(i / 40 + len(name)) + 25 * math.sin(i * 1.7), 2))
    return {"step_s": 10, "until": time.time_ns(), "series": {n: [shape(n, i) for i in range(length)] for n in names}}


class Gateway:
    """The status address of a gateway that says what it is told. Set the attributes, then push()."""

    def __init__(self):
        self.status, self.history = greenhouse(), history(["in", "out", "waiting", "log_bytes"])
        self.dead = {"total": 0, "suppressed": 0, "reasons": [], "records": []}
        self.pipelines = {"pipelines": []}
        self.events, self.locked = True, False  # False: no line is free; True: the login has ended
        self.requests = []
        self.lines = []  # the stream that each open page follows, None: no one
        self._changed = threading.Condition()
        self._events = []
        self._line = 0  # lines of another number end

    def start(self, port=0):
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (Handler,), {"gateway": self}))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
        self.drop()

    def drop(self):
        """End all lines."""
        with self._changed:
            self._line += 1
            self._changed.notify_all()

    def push(self, event="status", data=None):
        """Send an event to every open page: the status, unless told. Text is sent as it is."""
        data = self.status if data is None else data
        with self._changed:
            self._events.append((event, data if isinstance(data, str) else json.dumps(data)))
            self._changed.notify_all()

    def wait_until(self, true, timeout_s=10):
        with self._changed:
            assert self._changed.wait_for(true, timeout_s)

    def wait_for(self, path, count=1):
        """Until something that begins like that was asked for so many times."""
        self.wait_until(lambda: sum(asked.startswith(path) for asked in self.requests) >= count)

    def asked(self, path):
        with self._changed:
            self.requests.append(path)
            self._changed.notify_all()

    def wait_for_line(self, stream):
        """Until an open page follows it: it gets what is pushed now."""
        self.wait_until(lambda: stream in self.lines)

    def follow(self, stream, write):
        """Events to one page until its line ends. Looks now and then whether the page is still there."""
        with self._changed:
            seen, line = len(self._events), self._line
            self.lines.append(stream)
            self._changed.notify_all()
        try:
            write("status", json.dumps(self.status))
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._line != line or len(self._events) > seen, 0.1)
                    news, seen = self._events[seen:], len(self._events)
                    if self._line != line:
                        return
                for event, data in news:
                    write(event, data)
                write(None, None)
        finally:
            with self._changed:
                self.lines.remove(stream)
                self._changed.notify_all()

    # -- stories for pictures ------------------------------------------------------------------------------------------

    def tell(self, story):
        """calm, outage or dead: a whole gateway in that state, with the hour before it."""
        away_s = 740 if story == "outage" else 0
        self.status = greenhouse()
        cloud, boiler, alarm = self.status["sinks"][0], self.status["drivers"][1], self.status["pipelines"][0]
        alarm["dead"] = 0
        if story == "outage":
            detail = "cannot reach broker.example:8883: no route to host; trying again in 40 s"
            cloud.update(state="waiting", detail=detail, lag=30_409, oldest_unsent_s=away_s, rate=0.0)
            cloud["since"] = time.time_ns() - away_s * 10**9
            self.status["components"][-2].update(state="waiting", detail=detail, since=cloud["since"])
            sentence = (
                "Cloud unreachable for 12 min (cannot reach broker.example:8883): 30,409 readings wait, room for 9 days"
            )
            self.status.update(sentence=sentence, level="attention", loss_window_records=12)
            self.status["log"]["room_s"] = 9.4 * 86400
        if story == "dead":
            boiler["bad_frames"], alarm["dead"] = 31, 1204
            sentence = "1,204 dead letters since the start (tidegate dead); everything delivered"
            self.status.update(sentence=sentence, level="attention")
            letter = {
                "by": "freezer-alarm",
                "step": "decode",
                "reason": "v is str, not float",
                "stream": "freezers",
                "more": 3,
            }
            letter |= {"value": {"v": "broken"}, "raw": '{"ts":1790000000.05,"v":"broken"}'}
            rows = [
                {
                    "offset": n,
                    "time": time.time_ns() - n * 10**9,
                    "source_offset": 123456 - n,
                    "key": f"site/a/freezer/{n:02}/temp",
                    **letter,
                }
                for n in range(20)
            ]
            reasons = [("decode", "v is str, not float", 1003), ("steps[0].set.watts", "division by zero", 201)]
            why = [
                {"by": "freezer-alarm", "step": s, "reason": r, "count": n, "last": time.time_ns()}
                for s, r, n in reasons
            ]
            self.dead = {"total": 1204, "suppressed": 88, "reasons": why, "records": rows}

        def shape(name, i):
            away = max(0, i - (COLUMNS - away_s // 10)) if away_s else 0
            noise = math.sin(i * 1.7) + math.sin(i * 0.61 + len(name))
            if 203 <= i < 208:
                return None
            if name == "log_bytes":
                return (498 << 20) + i * 93_000
            if name in ("waiting", "lag:cloud"):
                return round(220 + 90 * noise + away * 411)
            if name == "sink:cloud" and away:
                return 0.0
            level = {"driver:boiler": 10, "sink:cloud": 41, "sink:local": 40, "out": 81}.get(name, 410)
            return round(
                level * (1 + 0.1 * math.sin(i / 45) + 0.02 * noise) * (0.5 if name == "out" and away else 1), 2
            )

        parts = ["driver:sensors", "driver:boiler", "sink:cloud", "sink:local", "lag:cloud"]
        self.history = history(["in", "out", "waiting", "log_bytes", *parts], shape=shape)

    def newest(self, stream, count):
        """A `records` event."""
        records = [
            {
                "o": 81_000 + n,
                "t": time.time_ns() - (count - n) * 24_000_000,
                "k": f"site/{'abc'[n % 3]}/freezer/{n * 7 % 12:02}/temp",
                "v": {
                    "ts": round(time.time() - (count - n) * 0.024, 2),
                    "v": round(-18.4 - n * 0.13 % 2, 2),
                    "unit": "C",
                    "seq": 9000 + n,
                },
            }
            for n in range(count)
        ]
        return {"stream": stream, "skipped": 347, "records": records}


class Handler(BaseHTTPRequestHandler):
    gateway: Gateway

    def do_GET(self):
        gateway, (path, query) = self.gateway, urlsplit(self.path)[2:4]
        gateway.asked(self.path)
        name = "index.html" if path == "/" else path.removeprefix("/static/")
        answers = {
            "/api/v1/status": gateway.status,
            "/api/v1/history": gateway.history,
            "/api/v1/dead": gateway.dead,
            "/api/v1/pipelines": gateway.pipelines,
        }
        if "/" not in name and (STATIC / name).is_file():
            self.answer((STATIC / name).read_bytes(), KINDS[name.rsplit(".", 1)[1]])
        elif gateway.locked:
            self.answer(b'{"error": "log in"}', "application/json", 401)
        elif path in answers:
            self.answer(json.dumps(answers[path]).encode(), "application/json")
        elif path == "/api/v1/events" and gateway.events:
            self.answer(None, "text/event-stream")
            gateway.follow(parse_qs(query).get("stream", [None])[0], self.event)
        else:
            self.answer(b"{}", "application/json", 503 if path == "/api/v1/events" else 404)

    def event(self, event, data):
        self.wfile.write(f"event: {event}\ndata: {data}\n\n".encode() if event else b":\n\n")

    def answer(self, body, kind, code=200):
        self.send_response(code)
        self.send_header("content-type", kind)
        self.send_header("content-security-policy", POLICY)
        self.send_header("cache-control", "no-store")
        self.end_headers()
        if body is not None:
            self.wfile.write(body)

    def handle(self):
        with contextlib.suppress(OSError):  # the page went away
            super().handle()

    def log_message(self, *args):
        pass


class Looks:
    """A browser; `at` opens a page in a window of its own, which remembers complaints and whom it asked."""

    def __enter__(self):
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        return self

    def __exit__(self, *error):
        self._browser.close()
        self._playwright.stop()

    def at(self, url, size=DESKTOP, scheme="light", *, clock=False, **options):
        context = self._browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, has_touch=size == PHONE, **options
        )
        context.set_default_timeout(15_000)
        page = context.new_page()
        page.complaints, page.asked = [], []
        page.on(
            "console", lambda said: page.complaints.append(said.text) if said.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.text = lambda what: page.text_content(what).strip()
        page.no_wider = lambda: page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        if clock:
            page.clock.install()
        page.goto(url)
        return page
