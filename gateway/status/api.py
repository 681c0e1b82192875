"""The API under /api/v1, the pages for machines (/healthz, /readyz, /metrics), and the page for people at /.

GET /api/v1/status
    {"gateway": id, "version": "0.1.0", "epoch": "…", "now": ns, "uptime_s": 12.3, "ready": true,
     "sentence": "Everything delivered", "level": "ok" | "attention" | "trouble",
     "components": [{"name": "driver:boiler", "state": "starting" | "up" | "waiting" | "failed", "detail": "…",
                     "since": ns, "restarts": 0, "bad_frames": [{"time": ns, "reason": "…", "sample": "…"}]}, …],
     "drivers": [{"name", "kind", "streams": […], "rate": records/s, "records": n, "bad_frames": n,
                  "state", "detail", "since", "restarts"}, …],
     "streams": as below,
     "pipelines": [{"name", "inputs": […], "outputs": […], "rate": outputs/s, "lag": records, "state", "detail",
                    "since", "restarts", "dead": n, "filtered": n, "late": n, "evicted": n, "keys": n, …}, …],
     "sinks": [{"name", "kind", "streams": […], "rate": records/s, "delivered": n, "lag": records,
                "oldest_unsent_s": seconds or null, "wire_bytes": n, "state", "detail", "since", "restarts"}, …],
     "readers": [{"reader": "sink:cloud", "stream": "alarms", "position": offset, "lag": records,
                  "oldest_unsent_s": seconds or null}, …],
     "log": {"path": "…", "bytes": n, "limit_bytes": n, "device_bytes": n, "commits": n, "seals": n,
             "horizon_s": seconds or null, "room_s": seconds or null,
             "moved": "why this start began a new epoch" or null,
             "wear": {"device": "mmcblk0" or null, "device_bytes": n or null, "device_day_bytes": n or null,
                      "log_day_bytes": n or null, "endurance_bytes": n, "life_days": n or null,
                      "budget_day_bytes": n or null, "commit_s": seconds, "told": "…"}},
     "loss_window_records": n, "viewers": n,
     "config": {"files": […], "loaded": ns, "reloads": n,
                "problems": [{"file", "line", "column", "path", "message"}, …]}}
    A pipeline whose alarms are raised has their number as `raised`, and in words in its `detail`.
    Counts are since the start, rates over the last 10 to 20 s. `position` is the first offset that is not finished,
    `device_bytes` what was written since the start, `horizon_s` the age of the oldest record that is kept, `room_s` the
    time until the log must forget, at the rate of the last hour (null: not known, or it does not grow),
    `wear` what the whole device took from everybody, and what the log wrote, since the start and a day (null: not
    known, or not yet), how long a new card lasts for that, how long a commit may wait now, and all of it in words,
    `loss_window_records` what a power cut now would take, `viewers` who follows /api/v1/events, and `problems` why the
    last reload was refused.

GET /api/v1/streams
    {"streams": [{"name": "boiler", "first": offset, "next": offset, "newest": ns or null, "rate": records/s, "gone": n,
                  "lost": n, "blocks": n, "bytes": n, "priority": "normal" | "urgent"}, …]}
    `first` is the oldest offset that is kept, `next` the one that the next record gets, `newest` the time of the newest
    record; `gone` records are in gaps, and `lost` of them were gone, since the start, before everyone who reads the
    stream had them. `bytes`: of sealed blocks.

GET /api/v1/streams/{stream}/records?from=OFFSET | time=NS or ISO-8601 & limit=1…1000
    {"stream": "boiler", "next": offset, "records": [{"o": …, "t": …, "k": …, "v": …} or {"gap": …, "cause": …}, …]}
    From the oldest on, 100 of them, unless told; `next` is the `from` of the following request. With
    `Accept: application/x-ndjson` the records as lines, and `next` in the header Tidegate-Next. An answer holds 1 MiB
    at most (but at least one record), so it may hold fewer than `limit`.

GET /api/v1/pipelines
    {"pipelines": [{"name", "inputs": […], "outputs": […], "definition": as it is written, "stats": {…}}, …]}

GET /api/v1/history
    {"step_s": 10, "until": ns, "series": {"in": [number or null, …], "out": …, "waiting": …, "log_bytes": …,
     "driver:NAME": …, "sink:NAME": …, "lag:NAME": …}}
    The last hour, oldest first: `in`, `out`, drivers and sinks in records/s, `waiting` and `lag:…` in records. At most
    64 series, all of one length.

GET /api/v1/dead?limit=1…200
    {"total": n, "suppressed": n, "kept": n,
     "reasons": [{"by", "step", "reason", "count": n, "last": ns}, …],
     "records": [{"offset", "time", "by", "step", "reason", "stream", "source_offset", "key", "value", "raw": "…",
                  "more": n}, …]}
    The newest first, 50 of them unless told. `reasons` counts the newest 500, the most frequent first, alike but for
    numbers and quoted parts; `total` came since the start, `kept` are in the log, `suppressed` were counted and not
    kept, `more` of them for the same reason as this one.
    `raw` is the payload as it came, what does not print escaped, at most 4 KiB of it; `value` is null where it is
    larger.

GET /api/v1/events[?stream=NAME]
    The status, the last hour and records as they change: gateway.status.events.

POST /api/v1/reload, by the control socket only
    Take the configuration as its files are now. {"ok": true, "changes": ["sink cloud changed", …]}, or with 422
    {"ok": false, "problems": [{"file", "line", "column", "path", "message"}, …]}: then nothing has changed. The answer
    comes when it is done, which may take a while; whoever does not wait for it sees it in `config` of the status.

Every error is {"error": "what is wrong, and what to try"}; with 503 when the log cannot be read just now.
"""

import asyncio
import importlib
import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from gateway.errors import LogError, NotNow
from gateway.formats import CONTENT_TYPES, wire_line
from gateway.record import Gap
from gateway.status.events import MOST_VIEWERS, Follow, Viewers
from gateway.status.login import Login
from gateway.status.server import NoStream, Source

MOST_RECORDS = 1000
MOST_BYTES = 1 << 20
USUAL_RECORDS = 100
MOST_DEAD = 200
USUAL_DEAD = 50

STATIC = Path(__file__).parent / "static"
PAGE = {
    "cache-control": "no-cache",  # asked for every time, and mostly not sent: ETag
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "referrer-policy": "same-origin",
}

ROOT = """\
Tidegate

/healthz             it lives
/readyz              it is ready: recovered, drivers up
/metrics             for Prometheus
/api/v1/status       everything at a glance
/api/v1/streams      what is recorded
/api/v1/streams/{stream}/records?from=&limit=&time=
/api/v1/pipelines    what is made of it
/api/v1/history      the last hour
/api/v1/dead?limit=  what could not be processed, and why
/api/v1/events?stream=   all of it as it changes
"""


class Refused(Exception):
    """A request that cannot be answered, in words for who made it."""


def application(source: Source, login: Login | None = None) -> Starlette:
    """The web application over one daemon."""
    viewers = Viewers(source)
    static = StaticFiles(directory=STATIC, check_dir=False)

    async def root(request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            return PlainTextResponse(ROOT)
        return await page("index.html", request)

    async def page(name: str, request: Request) -> Response:
        answer = await static.get_response(name, request.scope)
        answer.headers.update(PAGE)
        return answer

    async def file(request: Request) -> Response:
        return await page(request.url.path.rpartition("/")[2], request)

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        ready, reasons = source.ready()
        return PlainTextResponse("ready\n" if ready else "\n".join(["not ready", *reasons, ""]), 200 if ready else 503)

    async def metrics(request: Request) -> Response:
        # A tenth of a second of imports, at the first scrape: not on the event loop.
        exposition = await asyncio.to_thread(importlib.import_module, "prometheus_client.exposition")
        return Response(source.metrics(), headers={"content-type": exposition.CONTENT_TYPE_LATEST})

    async def status(request: Request) -> Response:
        return _json(viewers.status())

    async def streams(request: Request) -> Response:
        return _json(source.streams())

    async def pipelines(request: Request) -> Response:
        return _json(source.pipelines())

    async def history(request: Request) -> Response:
        return _json(source.history())

    async def events(request: Request) -> Response:
        stream = request.query_params.get("stream")
        if stream is not None:
            source.end(stream)
        if viewers.count >= MOST_VIEWERS:
            words = f"there are {viewers.count} viewers already; close a page that shows this gateway, and try again"
            return _json({"error": words}, 503, {"retry-after": "10"})
        return Follow(viewers, source, stream)

    async def reload(request: Request) -> Response:
        with request.scope["state"]["patient"]():  # it waits for receipts of sinks, and for a reload before it
            result = await source.reload()
        return _json(result, 200 if result["ok"] else 422)

    async def dead(request: Request) -> Response:
        return _json(await source.dead(_number(request, "limit", 1, MOST_DEAD, USUAL_DEAD)))

    async def records(request: Request) -> Response:
        stream = request.path_params["stream"]
        limit = _number(request, "limit", 1, MOST_RECORDS, USUAL_RECORDS)
        if "time" in request.query_params and "from" in request.query_params:
            raise Refused("from= and time= exclude each other")
        if "time" in request.query_params:
            first = await source.seek(stream, parse_time(request.query_params["time"]))
        else:
            first = _number(request, "from", 0, (1 << 63) - 1, 0)
        items, after = await source.records(stream, first, limit, MOST_BYTES)
        lines: list[bytes] = []
        room = MOST_BYTES
        for item in items:
            line = wire_line(item)
            room -= len(line) + 1
            if lines and room < 0:
                after = item.first if isinstance(item, Gap) else item.offset
                break
            lines.append(line)
        if CONTENT_TYPES["ndjson"] in request.headers.get("accept", ""):
            body = b"".join([line + b"\n" for line in lines])
            return Response(body, headers={"content-type": CONTENT_TYPES["ndjson"], "tidegate-next": str(after)})
        head = msgspec.json.encode({"stream": stream, "next": after})[:-1]
        return Response(head + b',"records":[' + b",".join(lines) + b"]}", media_type="application/json")

    async def no_stream(request: Request, error: Exception) -> Response:
        known = ", ".join(row["name"] for row in source.streams()["streams"][:50])
        return _json({"error": f"no stream is called {str(error)!r}; there are: {known or 'none yet'}"}, 404)

    async def no_disk(request: Request, error: Exception) -> Response:
        words = f"the log does not give what is needed for this: {error}; see /api/v1/status, and try again"
        return _json({"error": words}, 503, {"retry-after": "10"})

    async def not_now(request: Request, error: Exception) -> Response:
        return _json({"error": str(error)}, 503)

    async def refused(request: Request, error: Exception) -> Response:
        return _json({"error": str(error)}, 400)

    async def nothing(request: Request, error: Exception) -> Response:
        return _json({"error": "there is nothing here; / lists what there is"}, 404)

    pages: list[tuple[str, Callable[[Request], Awaitable[Response]]]] = [
        ("/", root),
        ("/healthz", healthz),
        ("/readyz", readyz),
        ("/metrics", metrics),
        ("/api/v1/status", status),
        ("/api/v1/streams", streams),
        ("/api/v1/streams/{stream}/records", records),
        ("/api/v1/pipelines", pipelines),
        ("/api/v1/history", history),
        ("/api/v1/dead", dead),
        ("/api/v1/events", events),
        *((f"/static/{each.name}", file) for each in sorted(STATIC.glob("*.*"))),
    ]
    routes = [Route(path, answer, methods=["GET"]) for path, answer in pages]
    routes.append(Route("/api/v1/reload", reload, methods=["POST"]))
    if login is not None:
        routes.append(Route("/login", login.page, methods=["GET"]))
        routes.append(Route("/login", login.enter, methods=["POST"]))
        routes.append(Route("/logout", login.leave, methods=["POST"]))
    return Starlette(
        routes=routes,
        exception_handlers={404: nothing, NoStream: no_stream, Refused: refused, LogError: no_disk, NotNow: not_now},
    )


def parse_time(text: str) -> int:
    """ns since 1970, of a number of them or of ISO-8601 with a zone. Raises Refused."""
    if re.fullmatch(r"-?[0-9]{1,18}|[0-9]{19}", text):
        return int(text)
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return round(at.timestamp() * 1_000_000) * 1000
    except (ValueError, OverflowError):
        pass  # told below, with what to write instead
    raise Refused(f"time={text[:50]!r} is no time; write ns since 1970, or like 2026-11-23T19:30:00Z")


def _number(request: Request, name: str, least: int, most: int, otherwise: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return otherwise
    if not re.fullmatch(r"[0-9]{1,19}", text) or not least <= int(text) <= most:
        raise Refused(f"{name}={text[:50]!r} is not possible; write a number from {least} to {most}")
    return int(text)


def _json(data: Any, status_code: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(data), status_code, headers, "application/json")
