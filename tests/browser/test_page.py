"""The page in a real browser, over a gateway that is made up: what it shows, what it refuses, what it survives."""

import os
import re
import time
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from page_rig import DESKTOP, PHONE, STATIC, Gateway, Looks, driver, greenhouse, history, pipeline, sink, status, stream
from process import GatewayProcess

from gateway.testing import Mosquitto

HOSTILE = '<img src=x onerror="window.hit=1"></script><script>window.hit=1</script>\u202egnp.exe\u0000\x1b[31m'
LONG = "n" * 10_000
SIZES = [(PHONE, "light"), (PHONE, "dark"), (DESKTOP, "light"), (DESKTOP, "dark")]


@pytest.fixture(scope="module")
def looks():
    with Looks() as looks:
        yield looks


@pytest.fixture
def gateway():
    gateway = Gateway().start()
    yield gateway
    gateway.stop()


@pytest.fixture
def look(looks, gateway):
    """Open the page; whatever it does afterwards, it must not complain, and talk to nobody but its gateway."""
    opened = []

    def look(size=DESKTOP, scheme="light", **options):
        opened.append(looks.at(gateway.url, size, scheme, **options))
        opened[-1].wait_for_selector("#live[data-state=live]")
        return opened[-1]

    yield look
    complaints = [said for page in opened for said in page.complaints]
    strangers = [url for page in opened for url in page.asked if not url.startswith((gateway.url, "data:"))]
    for page in opened:
        page.context.close()
    assert (complaints, strangers) == ([], [])


def hostile_gateway(gateway, text):
    gateway.status = status(
        [driver(text, text, [text], 3.0, state="failed", detail=text, bad_frames=2)],
        [stream(text, 3.0, lost=4), stream(text + "2", 1.0, priority=text)],
        [pipeline(text, [text], [text + "2"], 1.0, state="waiting", detail=text, dead=3)],
        [sink(text, text, [text + "2"], state="waiting", detail=text, lag=7, oldest_unsent_s=99.0)],
        gateway=text,
        version=text,
        epoch=text,
        sentence=text,
        level="trouble",
    )
    gateway.status["components"][0]["bad_frames"] = [{"time": time.time_ns(), "reason": text, "sample": text}]
    problem = {"file": text, "line": 3, "column": 5, "path": text, "message": text}
    gateway.status["config"].update(files=[text], problems=[problem] * 30)
    letter = {"by": text, "step": text, "reason": text, "stream": text, "key": text, "value": {text: text}, "raw": text}
    letter |= {"source_offset": 4, "time": time.time_ns(), "more": 2}
    gateway.dead = {"total": 9, "suppressed": 1, "records": [{"offset": n, **letter} for n in range(9)]}
    gateway.dead["reasons"] = [{"by": text, "step": text, "reason": text, "count": 9, "last": time.time_ns()}]
    gateway.pipelines = {"pipelines": [{"name": text, "definition": text}]}
    values = [text, {text: text}, [text], {"$b": text}, 5, None, {text: {text: [text, {text: 1}]}}]
    return [{"o": n, "t": time.time_ns(), "k": text, "v": value} for n, value in enumerate(values)]


def test_it_weighs_at_most_60_kb_and_needs_nothing_else():
    files = [file for file in Path(str(STATIC)).iterdir() if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 60_000
    for file in files:
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", file.read_text())
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function", file.read_text()
        )


def test_text_can_be_read_in_the_sun():
    style = (STATIC / "style.css").read_text()
    for palette in re.findall(r":root \{(.*?)\}", style, re.S):
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6});", palette))
        for ground in ("paper", "card"):
            assert contrast(colours["ink"], colours[ground]) >= 7
            for secondary in ("soft", "water", "ok", "attention", "trouble"):
                assert contrast(colours[secondary], colours[ground]) >= 4.5, (secondary, ground)
        for level in ("ok", "attention", "trouble"):
            assert contrast(colours[level], colours[f"{level}-bg"]) >= 4.5


def contrast(one, other):
    def luminance(colour):
        digits = colour[1:] if len(colour) == 7 else "".join(c * 2 for c in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_it_says_how_it_is_in_words_with_a_sign_and_a_level(look, gateway):
    page = look()
    assert page.text("#sentence") == "Everything delivered"
    assert page.text("#level") == "All well"
    assert page.text("#gateway") == "greenhouse-7"
    gateway.status = greenhouse(sentence="Cloud unreachable for 12 min", level="trouble", uptime_s=90061)
    gateway.push()
    page.wait_for_selector("#level.trouble .sign.trouble")
    assert page.text("#level") == "Trouble"
    assert page.title().startswith("Trouble: greenhouse-7")
    assert page.text("#uptime") == "up for 1 day 1 h"
    gateway.status["sentence"] = "Cloud stopped: out of paper; pump away for 3 min; 7 dead letters since the start"
    gateway.push()
    page.wait_for_selector("#sentence:text-is('Cloud stopped: out of paper')")  # the worst first, the rest below
    assert page.text("#also") == "pump away for 3 min; 7 dead letters since the start"


def test_raised_alarms_are_told_where_they_are_and_nothing_is_in_trouble(look, gateway):
    page = look()
    gateway.status = greenhouse(sentence="Everything delivered; 3 alarms raised")
    gateway.status["pipelines"][0] |= {"raised": 3, "detail": "3 alarms raised"}
    gateway.push()
    page.wait_for_selector(".pipeline .words:text-is('3 alarms raised')")
    assert page.text("#also") == "3 alarms raised"
    assert page.text("#level") == "All well"


def test_before_anything_is_known_nothing_is_full(look, gateway):
    page = look()
    page.route("**/api/**", lambda route: None)  # never answered
    page.reload()
    page.wait_for_selector(".gauge")
    assert page.locator(".gauge span").evaluate("bar => bar.clientWidth") <= 2
    assert page.text("#sentence") == "Waiting for the gateway"
    top = page.locator("#tide .near").first.evaluate("water => water.getBoundingClientRect().top")
    ground = page.locator("#tide .post").evaluate("post => post.getBoundingClientRect().bottom")
    assert top >= ground - 10  # px


def test_the_flow_is_drawn_as_it_is(look, gateway):
    page = look()
    columns = page.eval_on_selector_all(
        ".column",
        "all => all.map(c => [c.querySelector('h3').textContent, [...c.querySelectorAll('.node bdi')].map(n => n.textContent).sort()])",
    )
    assert columns == [
        ["Drivers", ["boiler", "sensors"]],
        ["Streams", ["boiler", "doors", "freezers"]],
        ["Pipelines", ["boiler-means", "freezer-alarm"]],
        ["Streams", ["alarms", "boiler-means", "freezer-temps"]],
        ["Sinks", ["cloud", "local"]],
    ]
    assert page.locator(".bed").count() == 13  # one water for each edge
    assert page.locator(".flows").count() > 5
    assert page.locator(".bed.shut").count() == 0
    gateway.status["sinks"][0].update(
        state="waiting", detail="no route to host", lag=48210, oldest_unsent_s=740.0, rate=0
    )
    gateway.push()
    page.wait_for_selector(".bed.shut")
    assert "48,210 wait, the oldest for 12 min" in page.text(".sink[data-level=attention]")
    assert "waits: no route to host" in page.text(".sink[data-level=attention]")
    assert page.text("#tide p") == "The gate is shut: 48,210 records wait"


def test_dead_letters_are_part_of_the_flow_only_where_somebody_reads_them(look, gateway):
    parts = [driver("d", "mqtt", ["s"])], [stream("s"), stream("_dead")], [pipeline("p", ["s"], ["t", "_dead"])]
    gateway.status = status(*parts, [sink("c", "mqtt", ["t"])])
    page = look()
    assert "_dead" not in page.text("#flow")
    gateway.status = status(*parts, [sink("c", "mqtt", ["t", "_dead"])])
    gateway.push()
    page.wait_for_selector("#flow :text('_dead')")


def test_a_chain_of_pipelines_gets_a_column_for_each(look, gateway):
    chain = [pipeline(f"p{n}", [f"s{n}"], [f"s{n + 1}"], 1.0) for n in range(3)]
    gateway.status = status(
        [driver("d", "mqtt", ["s0"], 1.0)], [stream("s0", 1.0)], chain, [sink("c", "mqtt", ["s0", "s3"])]
    )
    page = look()
    assert page.eval_on_selector_all(".column h3", "all => all.map(n => n.textContent)") == [
        "Drivers", *["Streams", "Pipelines"] * 3, "Streams", "Sinks",
    ]  # fmt: skip


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_a_hundred_streams_are_folded_and_can_be_unfolded(look, gateway, size):
    names = [f"line-{n}" for n in range(100)]
    gateway.status = status(
        [driver("plant", "mqtt", names, 900.0)],
        [stream(name, 9.0) for name in names],
        [],
        [sink("cloud", "mqtt", names, 500.0)],
    )
    gateway.status["streams"][77]["lost"] = 5
    page = look(size)
    assert page.locator(".node.stream").count() == 8
    assert "line-77" in page.text(".columns")  # what needs somebody is not folded away
    page.click("text=92 more")
    assert page.locator(".node.stream").count() == 100
    assert page.no_wider()
    page.click("text=Show fewer")
    assert page.locator(".node.stream").count() == 8


def test_a_box_opens_with_all_that_is_known_of_it_and_stays_up_to_date(look, gateway):
    gateway.pipelines = {
        "pipelines": [
            {
                "name": "freezer-alarm",
                "definition": {"from": "in", "steps": [{"filter": "v > 0"}, {"emit": {"a": "v"}}]},
            }
        ]
    }
    gateway.status["components"][1]["bad_frames"] = [
        {"time": time.time_ns(), "reason": "no line end", "sample": "\\xff\\x00"}
    ]
    page = look()
    page.click(".driver:has-text('boiler')")
    assert "no line end" in page.text("#details")
    assert "\\xff\\x00" in page.text("#details pre")
    page.keyboard.press("Escape")
    page.click(".pipeline:has-text('freezer-alarm')")
    page.wait_for_selector("#details pre")
    assert page.text("#details pre") == "from: in\nsteps:\n  - filter: v > 0\n  - emit:\n      a: v"
    assert "Filtered away\n3,201" in page.inner_text("#details")
    page.click("#details .link:has-text('freezer-temps')")
    assert "Oldest" not in page.text("#details")
    gateway.status["streams"][3]["next"] += 1
    gateway.push()
    page.wait_for_selector("#details :text('0 to 200,500')")
    page.click("text=Show its newest records")
    assert page.input_value("#stream") == "freezer-temps"


def test_the_keyboard_reaches_boxes_and_charts(look):
    page = look()
    page.focus(".driver")
    page.keyboard.press("Enter")
    page.wait_for_selector("#details[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#details:not([open])", state="attached")
    page.focus(".touch")
    newest = page.get_attribute(".touch", "aria-valuetext")
    page.keyboard.press("Home")
    assert page.get_attribute(".touch", "aria-valuenow") == "0"
    assert page.get_attribute(".touch", "aria-valuetext") != newest
    assert page.locator(".cursor[d^=M]").count() == 4  # one reading line through all charts
    page.keyboard.press("Escape")
    assert page.get_attribute(".touch", "aria-valuetext") == newest


def test_gaps_in_the_last_hour_are_gaps_and_a_young_gateway_has_a_short_line(look, gateway):
    gateway.history = history(["in"], shape=lambda name, i: None if 100 <= i < 110 or i == 200 else 5.0)
    page = look()
    page.wait_for_selector(".chart .line[d*=M]", state="attached")
    assert page.get_attribute(".chart .line", "d").count("M") == 3
    gateway.history = history(["in"], length=3, shape=lambda name, i: 5.0)
    page = look()
    page.wait_for_selector(".chart .line[d*=M]", state="attached")
    at = float(page.get_attribute(".chart .line", "d")[1:].split()[0])
    assert at > page.locator(".touch").first.bounding_box()["width"] * 0.8  # of five minutes
    assert page.get_attribute(".touch", "aria-valuemax") == "29"


def test_the_last_hour_goes_on_with_each_event_and_is_asked_for_again_after_a_hole(look, gateway):
    gateway.history = history(["in"], shape=lambda name, i: 5.0)
    page = look()
    page.wait_for_selector(".figure:text-is('5/s')")
    asked = gateway.requests.count("/api/v1/history")
    gateway.push("history", {"until": gateway.history["until"] + 10 * 10**9, "values": {"in": 7.0}})
    page.wait_for_selector(".figure:text-is('7/s')")
    assert gateway.requests.count("/api/v1/history") == asked
    gateway.history = history(["in"], shape=lambda name, i: 9.0)
    gateway.push("history", {"until": gateway.history["until"] + 90 * 10**9, "values": {"in": 8.0}})
    page.wait_for_selector(".figure:text-is('9/s')")


def test_records_come_live_and_payloads_are_shown_as_they_were_written(look, gateway):
    page = look()
    assert page.input_value("#stream") == "freezers"  # the one with the most news
    gateway.wait_for_line("freezers")
    raw = '{"o": %d, "t": %d, "k": "site/a", "v": {"v": 21.30, "id": 12345678901234567890, "ok": true}}'
    line = '{"stream": "freezers", "skipped": 1204, "records": [%s]}'
    gateway.push("records", line % (raw % (7, time.time_ns())))
    page.wait_for_selector("#records :text('site/a')")
    assert "v 21.30  id 12345678901234567890  ok true" in page.text("#records")
    assert "1,204 more records passed by" in page.text("#records")
    page.click("#records summary")
    assert '"v": 21.30,\n  "id": 12345678901234567890' in page.inner_text("#records pre")
    gateway.push("records", line % (raw % (8, time.time_ns())))
    page.wait_for_selector("#records-note:has-text('came since')")  # held while somebody reads
    assert page.locator("#records details").count() == 1
    page.click("#pause")
    assert page.locator("#records details").count() == 2
    for n in range(5):
        many = ", ".join(raw % (100 + n * 50 + i, time.time_ns()) for i in range(50))
        gateway.push("records", line % many)
    page.wait_for_selector("#records details:nth-child(1)")
    page.wait_for_selector("#records li:nth-child(60)")
    assert page.locator("#records li").count() == 60  # and no more
    page.select_option("#stream", "doors")
    gateway.wait_for_line("doors")
    assert page.locator("#records details").count() == 0


def letters(first, count=20):
    letter = {"by": "means", "step": "decode", "reason": "v is str, not float", "stream": "in", "key": "k", "value": 1}
    letter |= {"raw": "{\\xff", "more": 0, "time": time.time_ns()}
    rows = [{"offset": first - n, "source_offset": first - n, **letter} for n in range(count)]
    why = {"by": "means", "step": "decode", "reason": "v is str, not float", "count": first, "last": time.time_ns()}
    return {"total": first, "suppressed": 88, "reasons": [why], "records": rows}


def test_dead_letters_say_why_where_and_what_and_hold_still_while_somebody_reads(look, gateway):
    gateway.dead = letters(1000)
    page = look(clock=True)
    page.wait_for_selector("#dead-badge:text-is('1,000')")
    assert "1,000 dead letters since the start; 88 of them, like others, were only counted" in page.text("#dead")
    assert "tidegate dead lists them and shows their bytes" in page.text("#dead")
    page.click("#dead summary")
    page.wait_for_selector("#dead details[open] pre")
    opened = page.text("#dead details[open]")
    assert all(word in opened for word in ("v is str, not float", "means, decode", "in, offset 1,000", "{\\xff"))
    for total in (5000, 90_000):
        gateway.dead = letters(total)
        page.clock.run_for(6000)
        gateway.push()
        page.wait_for_selector(f"#dead :text('{total:,} dead letters')")
        assert page.text("#dead details[open]") == opened
    page.click("text=Show newer ones")
    assert page.locator("#dead details[open]").count() == 0
    assert gateway.requests.count("/api/v1/dead?limit=20") <= 4  # however many statuses come


def test_a_refused_reload_is_told_with_its_places(look, gateway):
    problem = {
        "file": "tidegate.yaml",
        "line": 7,
        "column": 3,
        "path": "sinks.cloud.url",
        "message": "write mqtt://HOST",
    }
    gateway.status["config"]["problems"] = [problem] * 25
    page = look()
    for words in (
        "refused",
        "tidegate.yaml:7:3",
        "sinks.cloud.url",
        "write mqtt://HOST",
        "And 5 more",
        "tidegate reload",
    ):
        assert words in page.text("#config")
    gateway.status["config"]["problems"] = []
    gateway.push()
    page.wait_for_selector("#config:not(:has-text('refused'))")


def test_the_log_says_what_pulling_the_plug_would_cost(look, gateway):
    page = look()
    assert "would cost nothing" in page.text("#log")
    gateway.status = greenhouse(loss_window_records=12)
    gateway.status["streams"][0]["lost"] = 5
    gateway.push()
    page.wait_for_selector("#log :text('would cost 12 records that no source sends again')")
    assert "5 records, forgotten before everyone had them" in page.text("#log .trouble")
    assert "530 MiB of 2 GiB" in page.text("#log")


def test_what_is_empty_teaches(look, gateway):
    gateway.status, gateway.history = status(), {"step_s": 10, "until": 0, "series": {}}
    page = look()
    for words in ("driver: simulated", "sink: mqtt"):
        assert words in page.text("#flow")
    assert "Nothing is recorded yet" in page.text("#records-note")
    assert "some are kept, and all are counted" in page.text("#dead")


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_hostile_text_shows_as_text(look, gateway, size):
    records = hostile_gateway(gateway, HOSTILE)
    page = look(size)
    gateway.wait_for_line(HOSTILE)
    gateway.push("records", {"stream": HOSTILE, "records": records, "skipped": 0})
    page.wait_for_selector("#records details:nth-child(1)")
    for row in page.locator("#records summary, #dead summary").all()[:12]:
        row.click()
    for kind in ("driver", "stream", "pipeline", "sink"):
        page.click(f".{kind}")
        page.wait_for_selector("#details[open]")
        assert "<img src=x onerror=" in page.text("#details")
        page.keyboard.press("Escape")
    shown = page.text("body")
    assert shown.count("<img src=x onerror=") > 40
    assert not re.search("[\u0000\u001b\u202e]", shown)
    assert "\\u{202e}gnp.exe" in shown
    assert page.evaluate("[window.hit, document.images.length, document.scripts.length]") == [None, 0, 1]
    assert page.no_wider()


@pytest.mark.parametrize(
    ("size", "scheme", "text"),
    [
        *((*size, "calm") for size in SIZES),
        (PHONE, "light", LONG),
        (DESKTOP, "dark", LONG),
        (PHONE, "dark", "Wörter " * 900),
    ],
)
def test_nothing_is_wider_than_the_screen(look, gateway, size, scheme, text):
    if text != "calm":
        records = hostile_gateway(gateway, text)
    page = look(size, scheme)
    if text != "calm":
        gateway.wait_for_line(text)
        gateway.push("records", {"stream": text, "records": records, "skipped": 3})
        page.wait_for_selector("#records details")
        page.click("#records summary")
        page.click("#dead summary")
    assert page.no_wider()
    page.click(".driver")
    assert page.evaluate(
        "document.getElementById('details').scrollWidth <= document.getElementById('details').clientWidth"
    )
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.search(r"\d+", ground)[0]) > 128) == (scheme == "light")


@pytest.mark.parametrize("story", ["calm", "dead"])
def test_what_stands_beside_each_other_ends_at_the_same_height_and_below_each_other_on_a_phone(look, gateway, story):
    gateway.tell(story)
    sides = "['.pair > section', '.pair > div'].map(side => document.querySelector(side).getBoundingClientRect())"
    page = look()
    gateway.wait_for_line("freezers")
    gateway.push("records", gateway.newest("freezers", 50))
    page.wait_for_selector("#records details")
    page.wait_for_selector("#dead p")
    records, others = page.evaluate(sides)
    assert (records["top"], records["bottom"]) == (others["top"], others["bottom"])
    assert page.evaluate("[...document.querySelectorAll('#records, #config')].every(box => box.clientHeight > 50)")
    records, others = look(PHONE).evaluate(sides)
    assert records["bottom"] < others["top"]


def test_the_words_of_a_chart_stand_above_its_line(look):
    page = look()
    page.wait_for_selector(".chart .line[d*=M]", state="attached")
    order = page.eval_on_selector(
        ".touch svg", "plot => [...plot.children].map(part => part.textContent ? 'words' : part.className.baseVal)"
    )
    assert order.index("words") > order.index("line") > order.index("grid")


def test_nothing_moves_for_those_who_asked_for_that(look):
    assert look().evaluate("document.getAnimations().length") > 0
    assert look(reduced_motion="reduce").evaluate("document.getAnimations().length") == 0


def test_it_reconnects_by_itself_and_says_how_old_it_is_meanwhile(look, gateway):
    page = look()
    gateway.stop()
    page.wait_for_selector("#live[data-state=away]")
    assert re.match(r"Reconnecting: what you see is .* old", page.text("#live"))
    assert page.text("#sentence") == "Everything delivered"
    gateway.status = greenhouse(sentence="Connecting to cloud", level="attention")
    gateway.start(gateway.port)
    page.wait_for_selector("#live[data-state=live]")
    assert page.text("#sentence") == "Connecting to cloud"
    page.complaints = [said for said in page.complaints if "ERR_" not in said]  # the browser's own about the break


def test_a_line_that_died_silently_is_noticed(look, gateway):
    page = look(clock=True)
    before = len([path for path in gateway.requests if path.startswith("/api/v1/events")])
    page.clock.run_for(27_000)
    gateway.wait_for("/api/v1/events", before + 1)


def test_where_no_line_is_free_it_asks(look, gateway):
    page = look()
    gateway.events = False
    gateway.drop()
    page.wait_for_selector("#live[data-state=asking]")
    assert "Too many pages are open" in page.text("#live")
    page.complaints = [said for said in page.complaints if "503" not in said and "ERR_" not in said]


def test_who_is_no_longer_logged_in_is_sent_to_the_login(look, gateway):
    page = look()
    gateway.locked = True
    gateway.drop()
    page.wait_for_selector("#live[data-state=login]")
    assert page.get_attribute("#live a", "href") == "/login"
    page.complaints = [said for said in page.complaints if "401" not in said and "ERR_" not in said]


def test_a_page_that_nobody_sees_costs_the_gateway_nothing(look, gateway):
    page = look(clock=True)
    page.evaluate(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true}); document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.clock.run_for(32_000)
    gateway.wait_until(lambda: not gateway.lines)
    page.evaluate(
        "Object.defineProperty(document, 'hidden', {value: false}); document.dispatchEvent(new Event('visibilitychange'))"
    )
    gateway.wait_until(lambda: gateway.lines)


def test_pictures(look, gateway, tmp_path):
    """TIDEGATE_SHOTS=FOLDER takes them all and keeps them; without it, two."""
    folder = Path(os.environ.get("TIDEGATE_SHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    wanted = list(product(["calm", "outage", "dead"], SIZES))
    for story, (size, scheme) in wanted if "TIDEGATE_SHOTS" in os.environ else wanted[:: len(wanted) - 1]:
        gateway.tell(story)
        page = look(size, scheme)
        gateway.wait_for_line("freezers")
        gateway.push("records", gateway.newest("freezers", 30))
        page.wait_for_selector("#records details")
        page.wait_for_timeout(1500)  # the gate moves
        picture = page.screenshot(path=folder / f"{story}-{size[0]}-{scheme}.png", full_page=True)
        assert int.from_bytes(picture[16:20], "big") == size[0], "nothing stands out at the side"
        page.close()


CONFIG = """\
gateway: {{id: greenhouse-7, status: "127.0.0.1:{status}"}}
log: {{path: {log}, size: 64MiB}}
drivers:
  sensors: {{driver: simulated, stream: readings, sensors: 8, rate: 50, seed: 7{faults}}}
pipelines:
  means:
    from: readings
    schema: {{ts: "time[s]", v: float}}
    steps:
      - window: {{tumbling: 5s, agg: {{n: count(), mean: mean(v)}}}}
    to: means
sinks:
  cloud: {{sink: mqtt, url: "mqtt://127.0.0.1:{far}", topic: "gw/{{stream}}", streams: [readings, means], batch: {{age: 1s}}}}
"""


@pytest.mark.integration
def test_over_a_real_gateway_an_outage_a_restart_and_dead_letters_are_seen(looks, tmp_path):
    with Mosquitto(tmp_path / "far") as far, GatewayProcess(tmp_path, CONFIG, far=far.port, faults="") as gateway:
        page = looks.at(f"http://127.0.0.1:{gateway.status}/")
        page.wait_for_selector("#level.ok")
        page.wait_for_selector("#records details summary :text('sim/')")
        page.wait_for_selector(".sink[data-level=ok] .rate:not(:text-is('0/s'))")
        assert page.text("#sentence") == "Everything delivered"
        far.stop()
        page.wait_for_selector(".bed.shut", state="attached")
        page.wait_for_selector("#sentence:has-text('Cloud unreachable')")
        assert page.text("#tide p").startswith("The gate is shut")
        far.start()
        page.wait_for_selector("#sentence:text-is('Everything delivered')", timeout=40_000)
        page.click(".pipeline")
        page.wait_for_selector("#details pre:has-text('tumbling')")
        page.keyboard.press("Escape")
        gateway.stop()
        page.wait_for_selector("#live[data-state=away]")
        gateway.write_config(CONFIG, far=far.port, faults=", faults: {garbage: 0.3}")
        gateway.start()
        page.wait_for_selector("#live[data-state=live]")
        page.wait_for_selector("#dead-badge:not([hidden])")
        page.click("#dead summary")
        page.wait_for_selector("#dead details pre")
        page.wait_for_selector(".pipeline .waits:has-text('dead letter')")
        assert page.no_wider()
        assert [said for said in page.complaints if "ERR_" not in said] == []
        assert {urlsplit(url).netloc for url in page.asked} == {f"127.0.0.1:{gateway.status}"}
        page.context.close()
