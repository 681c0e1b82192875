// The flow as it is, in columns from left to right, with the water between them. What stands where changes only with the
// configuration.

import { attr, el, keyed, named, pre, say, sign, svg, visible } from "./dom.js";
import { sparkline } from "./charts.js";
import { away, duration, levelOf, many, number, rate, stateOf } from "./words.js";

const MOST = 9; // boxes of a column before the rest is folded into one
const NARROW = 170; // px: columns that would be narrower stand below each other

/** What runs between what, of a status. Nodes: id → {id, kind, name, row}; edges: [from id, to id]. */
export function graph(status) {
	const nodes = new Map(), edges = [], streams = new Map(status.streams.map((row) => [row.name, row]));
	const put = (kind, name, row = {}) => {
		const id = `${kind}:${name}`;
		if (!nodes.has(id)) nodes.set(id, { id, kind, name, row });
		return id;
	};
	const stream = (name) => put("stream", name, streams.get(name));
	const join = (kind, row, into = [], out = []) => {
		const id = put(kind, row.name, row);
		for (const name of into) edges.push([stream(name), id]);
		for (const name of out) if (name !== "_dead") edges.push([id, stream(name)]);
	};
	for (const row of status.drivers) join("driver", row, [], row.streams);
	for (const row of status.pipelines) join("pipeline", row, row.inputs, row.outputs);
	for (const row of status.sinks) join("sink", row, row.streams);
	return { nodes, edges };
}

/** Columns of ids: drivers first, each thing right of what feeds it, all sinks last. */
function layers({ nodes, edges }) {
	const at = new Map([...nodes.values()].map(({ id, kind }) => [id, { driver: 0, stream: 1, pipeline: 2, sink: 0 }[kind]]));
	for (let round = 0; round < nodes.size && round < 50; round += 1) {
		for (const [from, to] of edges) if (!to.startsWith("sink:")) at.set(to, Math.max(at.get(to), at.get(from) + 1));
	}
	const last = Math.max(1, ...at.values()) + 1, columns = Array.from({ length: last + 1 }, () => []);
	for (const { id, kind } of nodes.values()) columns[kind === "sink" ? last : at.get(id)].push(id);
	return columns.filter((column) => column.length);
}

/** Few crossings: everything moves to the middle of what it is joined to, back and forth. */
function order(columns, chains) {
	const left = {}, right = {}, at = new Map();
	for (const chain of chains) {
		chain.slice(1).forEach((id, i) => {
			(left[id] ??= []).push(chain[i]);
			(right[chain[i]] ??= []).push(id);
		});
	}
	const settle = (column) => column.forEach((id, i) => at.set(id, (i + 0.5) / column.length));
	columns.forEach(settle);
	for (let round = 0; round < 8; round += 1) {
		for (const column of round % 2 ? [...columns].reverse() : columns) {
			const where = new Map(column.map((id) => {
				const others = (round % 2 ? right : left)[id] ?? [id];
				return [id, id.startsWith("fold:") ? 2 : others.reduce((sum, other) => sum + at.get(other), 0) / others.length];
			}));
			settle(column.sort((a, b) => where.get(a) - where.get(b)));
		}
	}
}

const trouble = ({ row }) => ["starting", "waiting", "failed"].indexOf(row.state) + 1 || row.lost > 0;
const worth = (node) => trouble(node) * 1e15 + (node.row.lag ?? 0) * 1e4 + (node.row.rate ?? 0);

export class Flow {
	constructor(box, open) {
		Object.assign(this, { box, open, unfolded: new Set(), boxes: new Map(), ends: [] }); // open(id) when a box is clicked
		this.wires = svg("svg.wires");
		this.columns = el("div.columns");
		this.lesson = el("div.lesson");
		box.append(this.wires, this.columns, this.lesson);
		new ResizeObserver(() => this.draw()).observe(this.columns);
	}

	show(status, history) {
		const model = (this.model = graph(status));
		this.again = () => this.show(status, history);
		const troubled = [...model.nodes.values()].filter(trouble).map((node) => node.id);
		const shape = JSON.stringify([[...model.nodes.keys()], model.edges, [...this.unfolded], model.nodes.size > MOST && troubled]);
		const focused = [...this.boxes].find(([, item]) => item.contains(document.activeElement))?.[0];
		if (shape !== this.shape) {
			this.build(model);
			this.boxes.get(focused)?.firstChild.focus();
		}
		this.shape = shape;
		for (const [id, item] of this.boxes) if (model.nodes.has(id)) this.refresh(item.firstChild, model.nodes.get(id), history);
		this.teach(status);
		this.draw();
	}

	/** Columns, folded where they are long, with lanes where an edge passes a column by. */
	build(model) {
		const columns = layers(model), place = new Map(), stands = new Map(), folds = new Map(), chains = new Map();
		columns.forEach((ids, at) => {
			const fold = `fold:${at}`;
			if (ids.length > MOST) {
				const best = ids.map((id) => model.nodes.get(id)).sort((a, b) => worth(b) - worth(a)).slice(0, MOST - 1).map((node) => node.id);
				const rest = this.unfolded.has(at) ? [] : ids.filter((id) => !best.includes(id));
				for (const id of rest) stands.set(id, fold);
				folds.set(fold, rest.length);
				columns[at] = [...ids.filter((id) => !stands.has(id)), fold];
			}
			for (const id of columns[at]) place.set(id, at);
		});
		for (const [a, b] of model.edges) {
			const from = stands.get(a) ?? a, to = stands.get(b) ?? b, chain = [from];
			for (let at = place.get(from) + 1; at < place.get(to); at += 1) {
				const lane = `lane:${at}:${from}`;
				if (!place.has(lane)) columns[at].push(lane);
				place.set(lane, at);
				chain.push(lane);
			}
			chains.set(`${from}>${to}`, [...chain, to]);
		}
		order(columns, [...chains.values()]);
		this.boxes.clear();
		this.columns.replaceChildren(...columns.map((ids, at) => {
			const kind = ids.map((id) => model.nodes.get(id)?.kind).find(Boolean);
			const items = ids.map((id) => {
				const item = id.startsWith("lane:") ? el("li.lane", { "aria-hidden": "true" }) : el("li", folds.has(id) ? this.fold(at, folds.get(id)) : this.make(model.nodes.get(id)));
				this.boxes.set(id, item);
				return item;
			});
			return el("section.column", el("h3", `${kind[0].toUpperCase()}${kind.slice(1)}s`), el("ol", items));
		}));
		this.columns.style.setProperty("--columns", columns.length);
		this.ends = [...chains.values()].map((chain) => ({ chain, paths: ["bed", "water", "gate"].map((what) => svg(`path.${what}`)) }));
		this.wires.replaceChildren(...this.ends.flatMap((end) => end.paths));
	}

	fold(at, count) {
		const click = () => {
			if (count) this.unfolded.add(at);
			else this.unfolded.delete(at);
			this.again();
		};
		return el("button.node.fold", { click }, count ? `${number(count)} more` : "Show fewer");
	}

	make({ id, kind, name, row }) {
		const head = [el("span.state"), named(name, 60), row.kind && el("span.kind", visible(row.kind, 20))];
		return el(`button.node.${kind}`, { click: () => this.open(id) },
			el("span.head", head), el("span.pace", el("span.rate"), svg("svg.spark")), el("span.waits"), el("span.words"), el("span.next"));
	}

	refresh(button, { id, kind, name, row }, history) {
		const put = (part, text) => say(button.querySelector(`.${part}`), text);
		const level = row.state ? levelOf(row.state) : row.lost ? "trouble" : "";
		if (level !== button.dataset.level) button.querySelector(".state").replaceChildren(...(level ? [sign(level)] : []));
		button.dataset.level = level;
		const waits = [
			kind === "sink" && row.lag > 0 && `${many(row.lag, "waits", "wait")}${row.oldest_unsent_s >= 5 ? `, the oldest for ${duration(row.oldest_unsent_s)}` : ""}`,
			kind === "pipeline" && row.lag > 0 && `${number(row.lag)} behind`,
			row.dead > 0 && many(row.dead, "dead letter"), row.bad_frames > 0 && many(row.bad_frames, "bad frame"), row.lost > 0 && `${number(row.lost)} lost`,
			row.priority === "urgent" && "urgent",
		].filter(Boolean).join(" · ");
		const words = visible(row.state && row.state !== "up" ? [stateOf(row.state), row.detail].filter(Boolean).join(": ") : kind === "pipeline" ? row.detail : "", 240);
		const to = this.model.edges.filter(([from]) => from === id).map(([, target]) => visible(this.model.nodes.get(target).name, 40));
		put("rate", rate(row.rate));
		put("waits", waits);
		put("words", words);
		put("next", to.length ? `→ ${to.slice(0, 3).join(", ")}${to.length > 3 ? ` and ${to.length - 3} more` : ""}` : "");
		const values = history?.series?.[kind === "sink" && row.lag > 0 ? `lag:${name}` : id], spark = button.querySelector(".spark");
		if (values) sparkline(spark, values.slice(-180));
	}

	/** The water: how wide it is, whether it moves, and where a gate is shut. */
	draw() {
		const count = this.columns.childElementCount, base = this.columns.getBoundingClientRect(), spots = new Map();
		if (this.box.classList.toggle("stacked", this.box.clientWidth < count * NARROW)) return;
		for (const [id, item] of this.boxes) {
			const box = (item.firstChild ?? item).getBoundingClientRect();
			spots.set(id, { left: box.left - base.left, right: box.right - base.left, y: Math.round(box.top + box.height / 2 - base.top) + 0.5 });
		}
		for (const { chain, paths: [bed, water, gate] } of this.ends) {
			const row = (id) => this.model.nodes.get(id)?.row ?? {}, to = row(chain.at(-1)), fast = Math.log10(1 + (row(chain[0]).rate ?? 0));
			const shut = away(to), end = spots.get(chain.at(-1));
			const d = chain.slice(1).reduce((text, id, i) => {
				const a = spots.get(chain[i]), b = spots.get(id), bend = (b.left - a.right) / 2;
				return `${text}C${a.right + bend} ${a.y} ${b.left - bend} ${b.y} ${b.left} ${b.y}${id.startsWith("lane:") ? `H${b.right}` : ""}`;
			}, `M${spots.get(chain[0]).right} ${spots.get(chain[0]).y}`);
			attr(bed, { d, "stroke-width": 3 + Math.min(3, fast) });
			attr(water, { d, "stroke-width": 1.5 + Math.min(3, fast) });
			attr(gate, { d: shut && `M${end.left - 9} ${end.y - 9}v18` });
			bed.classList.toggle("shut", shut);
			water.classList.toggle("flows", !shut && fast > 0 && to.rate !== 0);
			water.style.setProperty("--drift", 18 + 18 * Math.min(3, Math.floor(fast))); // px in 2 s, whole dashes
		}
	}

	teach({ drivers, sinks }) {
		const lessons = [];
		if (!drivers.length) lessons.push("No driver yet. A driver reads sensors. Write one into the configuration:", "drivers:\n  demo: {driver: simulated, stream: readings, rate: 20}");
		if (!sinks.length) lessons.push("No sink yet: what is recorded stays here. A sink delivers streams:", 'sinks:\n  cloud: {sink: mqtt, url: "mqtt://broker.example", topic: "gw/{stream}", streams: [readings]}');
		keyed(this.lesson, lessons, String, (text) => (text.includes("\n") ? pre(text) : el("p", text)));
	}
}
