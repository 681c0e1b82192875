// The page: takes what the gateway says and hands it to those who show it.

import { attr, byId, el, say, sign, svg, visible } from "./dom.js";
import { charts, extend } from "./charts.js";
import { Details } from "./details.js";
import { Flow } from "./flow.js";
import { get, Live } from "./live.js";
import { ConfigPanel, Dead, LogPanel, Records } from "./panels.js";
import { away, bytes, duration, many, number, rate } from "./words.js";

const LEVELS = { ok: "All well", attention: "Attention", trouble: "Trouble" };
const LINES = {
	connecting: () => "Connecting",
	live: () => "Live",
	asking: (age) => `Too many pages are open: asked ${age} ago`,
	away: (age) => (status ? `Reconnecting: what you see is ${age} old` : "The gateway does not answer"),
	login: () => "You are no longer logged in.",
};
let status, history, line;

const live = new Live({ status: showStatus, history: addHistory, records: (data) => records.add(data), changed: showLine });
const records = new Records((stream) => live.follow(stream));
const details = new Details(records);
const flow = new Flow(byId("flow"), (id) => details.open(id));
const panels = [records, new LogPanel(), new ConfigPanel(), new Dead()];
const hour = charts([
	{ name: "in", title: "In", about: "recorded", words: rate },
	{ name: "out", title: "Out", about: "delivered", words: rate },
	{ name: "waiting", title: "Waiting", about: "not yet delivered", words: number },
	{ name: "log_bytes", title: "Log", about: "on disk", words: bytes, binary: true },
]);
byId("charts").append(...hour.map((chart) => chart.node));
const tide = drawTide(byId("tide"));

function showStatus(data) {
	status = data;
	const { level } = status, badge = byId("level");
	if (badge.className !== level) badge.replaceChildren(sign(level), LEVELS[level]);
	badge.className = level;
	const [worst, ...rest] = visible(status.sentence, 800).split("; "); // the worst comes first
	const said = {
		sentence: worst, also: rest.join("; "), gateway: visible(status.gateway, 80), uptime: `up for ${duration(status.uptime_s)}`,
		footer: `Tidegate ${visible(status.version, 30)} · log ${visible(status.epoch, 40)} · ${many(status.viewers ?? 1, "page")} open`,
	};
	for (const [id, text] of Object.entries(said)) say(byId(id), text);
	document.title = `${level === "ok" ? "" : `${LEVELS[level]}: `}${visible(status.gateway, 60)} · Tidegate`;
	tide(status);
	showFlow();
	for (const panel of panels) panel.show(status);
}

function showFlow() {
	if (!status) return;
	flow.show(status, history);
	details.show(status, history);
}

function addHistory(data) {
	// A status in which only the time would be new is not sent.
	if (status) showStatus({ ...status, now: data.until, uptime_s: status.uptime_s + (data.until - status.now) / 1e9 });
	if (extend(history, data)) showHistory();
	else fetchHistory();
}

function showHistory() {
	for (const chart of hour) chart.show(history);
	showFlow();
}

async function fetchHistory() {
	try {
		history = await get("/api/v1/history");
		showHistory();
	} catch {
		// the gateway is away; the next connection asks again
	}
}

function showLine(state, heard) {
	if (state !== line) {
		if (state === "live" || state === "asking") fetchHistory();
		byId("live").dataset.state = state;
		document.body.classList.toggle("old", state === "away" || state === "login");
		byId("login").hidden = state !== "login";
		line = state;
	}
	say(byId("live-text"), LINES[state](duration((Date.now() - heard) / 1000)));
}

/** The tide gate: the water behind it rises with what waits, and it is open where everybody takes what we send. */
function drawTide(box) {
	const wave = `M-80 0${"q10 -5 20 0t20 0".repeat(12)}V200H-80Z`;
	const level = (y, ...layers) => svg("g.level", { transform: `translate(0 ${y})` }, layers.map((what) => svg(`path.${what}`, { d: wave })));
	const basin = level(104, "far", "near"), side = { width: 149, height: 104 };
	const picture = svg("svg", { viewBox: "0 16 260 90", role: "img" }, svg("svg", side, basin), svg("svg", { x: 151, ...side }, level(88, "near")),
		svg("path.post", { d: "M0 104H260M150 22V34M136 22H164" }), svg("path.leaf", { d: "M150 34V96" }));
	const caption = el("p.soft");
	box.append(picture, caption);
	return ({ sinks, log }) => {
		const waiting = sinks.reduce((sum, sink) => sum + sink.lag, 0), oldest = Math.max(0, ...sinks.map((sink) => sink.oldest_unsent_s));
		const shut = !sinks.length || sinks.some(away);
		// Of the time for which the log can hold back, how much is used up.
		const used = !waiting ? 0 : log.room_s ? oldest / (oldest + log.room_s) : 0.1;
		basin.style.transform = `translateY(${Math.round(80 - used * 40 - (shut ? 10 : 0))}px)`;
		box.classList.toggle("shut", shut);
		const held = waiting ? many(waiting, "record waits", "records wait") : "nothing waits";
		say(caption, sinks.length ? `The gate is ${shut ? "shut" : "open"}: ${held}` : "No gate yet: there is no sink");
		attr(picture, { "aria-label": caption.textContent });
	};
}

live.start();
