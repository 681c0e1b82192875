// One box of the flow in full: a sheet at the side, from below on a phone.

import { byId, el, named, pre, sign, terms, visible } from "./dom.js";
import { charts } from "./charts.js";
import { graph } from "./flow.js";
import { get } from "./live.js";
import { ago, bytes, clock, duration, levelOf, many, number, rate, stateOf } from "./words.js";

// What a row of the status says: [member, words, how its value is told].
const FACTS = [
	["rate", "Rate", rate], ["records", "Records since the start", number], ["delivered", "Delivered since the start", number], ["lag", "Waiting", (n) => many(n, "record")],
	["oldest_unsent_s", "The oldest waits for", duration], ["wire_bytes", "Sent over the wire", (n, row) => `${bytes(n)}${row.delivered ? `, ${(n / row.delivered).toFixed(1)} bytes per record` : ""}`],
	["newest", "Newest record", (n, _, now) => ago(n, now)], ["next", "Offsets kept", (n, row) => (n > row.first ? `${number(row.first)} to ${number(n - 1)}` : "none")],
	["bytes", "In sealed blocks", bytes], ["priority", "Priority", (text) => visible(text)], ["gone", "Gone, in gaps", number], ["lost", "Lost before everyone had them", number],
	["bad_frames", "Bad frames", number], ["dead", "Dead letters", number], ["filtered", "Filtered away", number], ["late", "Too late", number],
	["evicted", "Keys let go for room", number], ["keys", "Keys with state", number], ["windows", "Open windows", number], ["restarts", "Restarts", number],
];

/** A definition, about as it is written. */
function yaml(value, pad = "") {
	if (!value || typeof value !== "object") return value;
	return Object.entries(value).map(([name, each]) => {
		const text = yaml(each, `${pad}  `);
		if (Array.isArray(value)) return `${pad}- ${String(text).trimStart()}`;
		return `${pad}${name}:${text === each ? " " : "\n"}${text}`;
	}).join("\n");
}

export class Details {
	constructor(records) {
		Object.assign(this, { records, sheet: byId("details"), written: new Map() });
		this.sheet.addEventListener("click", ({ target }) => target === this.sheet && this.sheet.close());
	}

	async open(id) {
		const [, kind, name] = id.match(/^(\w+):(.*)$/s);
		Object.assign(this, { id, facts: el("div"), extra: el("div"), told: null });
		const read = { name: id, title: "Records read", words: rate }, sent = { ...read, title: "Delivered" }, lag = { name: `lag:${name}`, title: "Waiting", words: number };
		this.charts = charts({ driver: [read], sink: [sent, lag] }[kind] ?? []);
		const close = el("button.close", { "aria-label": "Close", click: () => this.sheet.close() }, "×");
		this.sheet.replaceChildren(el("header", close, el("p.soft", kind), el("h2", { id: "details-title" }, named(name, 400))), this.facts, ...this.charts.map((chart) => chart.node), this.extra);
		if (!this.sheet.open) this.sheet.showModal();
		this.show(this.status, this.history);
		if (kind !== "pipeline") return;
		try {
			for (const row of (await get("/api/v1/pipelines")).pipelines) this.written.set(row.name, row.definition);
		} catch {
			return; // the definition comes with the next click
		}
		this.show(this.status, this.history);
	}

	show(status, history) {
		Object.assign(this, { status, history });
		if (!this.sheet.open) return;
		const node = graph(status).nodes.get(this.id);
		for (const chart of this.charts) chart.show(history);
		if (!node) return this.sheet.close(); // taken out of the configuration
		const { kind, name, row } = node;
		const readers = status.readers.filter((each) => each.reader === this.id || (kind === "stream" && each.stream === name)).slice(0, 100);
		const links = (title, streams) => streams && [title, streams.slice(0, 100).map((s) => el("button.link", { click: () => this.open(`stream:${s}`) }, visible(s, 80)))];
		if (!this.facts.contains(document.activeElement)) {
			this.facts.replaceChildren(
				row.state ? el(`p.lead.${levelOf(row.state)}`, sign(levelOf(row.state)), ` ${stateOf(row.state)} since ${clock(row.since)} (${ago(row.since, status.now)})`) : "",
				row.detail ? el("p", visible(row.detail, 1000)) : "",
				terms([
					...FACTS.filter(([member]) => row[member] != null).map(([member, words, tell]) => [words, tell(row[member], row, status.now)]),
					links(kind === "driver" ? "Feeds" : "Delivers", row.streams), links("Reads", row.inputs), links("Makes", row.outputs?.filter((s) => s !== "_dead")),
				]),
				readers.length ? el("h3", "Positions") : "",
				terms(readers.map((each) => [named(kind === "stream" ? each.reader : each.stream), `${number(each.position)}, ${number(each.lag)} behind`])),
			);
		}
		const extra = this.more(node, status), told = extra.map((each) => each.textContent).join();
		if (told !== this.told) this.extra.replaceChildren(...extra); // else what is scrolled or selected stays so
		this.told = told;
	}

	more({ id, kind, name }, status) {
		const out = [], samples = status.components.find((each) => each.name === id)?.bad_frames ?? [];
		if (samples.length) out.push(el("h3", "Newest bad frames"));
		for (const each of [...samples].reverse()) out.push(el("p", el("time", clock(each.time)), ` ${visible(each.reason, 300)}`), pre(each.sample));
		const click = () => {
			this.sheet.close();
			this.records.choose(name);
			byId("records-title").scrollIntoView();
		};
		if (status.streams.some((row) => id === `stream:${row.name}`)) out.push(el("button.wide", { click }, "Show its newest records"));
		const written = kind === "pipeline" && this.written.get(name);
		if (written) out.push(el("h3", "Definition"), pre(yaml(written), 20000));
		return out;
	}
}
