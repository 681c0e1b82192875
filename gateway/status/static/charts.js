// The last hour: one line per chart, gaps as gaps, and one reading line through all, by pointer, touch and arrow keys.

import { attr, el, say, svg } from "./dom.js";
import { clock, known } from "./words.js";

const HEIGHT = 148, SIDE = 8, TOP = 24, FLOOR = HEIGHT - 22; // px
const COLUMNS = 360;

/** Draw values as a line and the area below it; null breaks them, a lone value is a dot. */
function trace(path, below, values, x, y, floor) {
	let line = "", area = "";
	values.forEach((value, i) => {
		if (!known(value)) return;
		const spot = `${x(i).toFixed(1)} ${y(value).toFixed(1)}`, first = !known(values[i - 1]);
		line += first ? `M${spot}h.01` : `L${spot}`;
		area += `${first ? `M${x(i).toFixed(1)} ${floor}L` : "L"}${spot}`;
		if (!known(values[i + 1])) area += `V${floor}Z`;
	});
	attr(path, { d: line });
	attr(below, { d: area });
}

/** A round number at or above `n`: 1, 2, 2.5 or 5 times a power of ten; for bytes a power of two. */
function ceiling(n, binary) {
	if (!(n > 0)) return binary ? 2 ** 20 : 10;
	if (binary) return 2 ** Math.ceil(Math.log2(n));
	const ten = 10 ** Math.floor(Math.log10(n));
	return [1, 2, 2.5, 5, 10].find((step) => step * ten >= n * 0.999) * ten;
}

/** A small line without scales into an <svg>; its top is its own maximum. */
export function sparkline(node, values) {
	const most = Math.max(0, ...values) || 1;
	attr(node, { viewBox: "0 0 72 22" });
	if (!node.firstChild) node.append(svg("path.line"), svg("path.area"));
	trace(...node.children, values, (i) => 1 + (i * 70) / Math.max(1, values.length - 1), (v) => 20 - (v / most) * 18, 22);
}

/** Charts that share their reading line. `kinds`: [{name: series, title, about, words(value), binary}, …] */
export function charts(kinds) {
	const all = kinds.map((kind) => new Chart(kind, (at) => all.forEach((chart) => chart.read(at))));
	return all;
}

class Chart {
	constructor({ name, title, about, words, binary }, reads) {
		Object.assign(this, { name, words, binary, reads, at: null, value: el("span.figure"), when: el("span.soft"), labels: svg("g") });
		for (const part of ["grid", "area", "line", "cursor"]) this[part] = svg(`path.${part}`);
		this.plot = svg("svg", { height: HEIGHT, "aria-hidden": "true" }, this.grid, this.area, this.line, this.labels, this.cursor);
		const point = (event) => this.point(event), leave = () => reads(null);
		this.touch = el("div.touch", {
			tabindex: 0, role: "slider", "aria-label": `${title} in the last hour`, "aria-valuemin": 0,
			pointermove: point, pointerdown: point, pointerleave: leave, blur: leave, keydown: (event) => this.key(event),
		}, this.plot);
		this.node = el("figure.card.chart", el("figcaption", el("b", title), this.value, el("span.soft", about), this.when), this.touch);
		new ResizeObserver(() => this.draw()).observe(this.touch);
	}

	show(history) {
		this.until = Number(history?.until);
		this.step = history?.step_s ?? 10;
		const values = history?.series?.[this.name] ?? [];
		this.count = [30, 90, COLUMNS].find((count) => count >= values.length); // a young gateway shows 5 or 15 minutes
		this.values = [...Array(this.count - values.length).fill(null), ...values];
		this.draw();
	}

	x(i) {
		return SIDE + (i * (this.width - 2 * SIDE)) / (this.count - 1);
	}

	draw() {
		this.width = this.touch.clientWidth;
		if (!this.values || this.width < 40) return;
		const top = ceiling(Math.max(0, ...this.values), this.binary);
		const y = (v) => FLOOR - (v / top) * (FLOOR - TOP);
		attr(this.plot, { width: this.width });
		trace(this.line, this.area, this.values, (i) => this.x(i), y, FLOOR);
		const scale = [0, top / 2, top].map((value) => [value, Math.round(y(value)) + 0.5]);
		const labels = scale.slice(1).map(([value, at]) => svg("text", { x: SIDE, y: at - 4 }, this.words(value)));
		const times = (this.until ? [[1, "start"], [0.5, "middle"], [0, "end"]] : []).map(([back, anchor]) => {
			const text = back ? clock(this.until - back * this.count * this.step * 1e9, 5).slice(-5) : "now";
			return svg("text", { x: this.x((this.count - 1) * (1 - back)), y: HEIGHT - 6, "text-anchor": anchor }, text);
		});
		attr(this.grid, { d: scale.map(([, at]) => `M${SIDE} ${at}H${this.width - SIDE}`).join("") });
		this.labels.replaceChildren(...labels, ...times);
		this.read(this.at);
	}

	/** Put the reading line at a column; null: the newest value, no line. */
	read(at) {
		this.at = at;
		if (!this.values || !this.width) return;
		const i = at ?? this.count - 1, value = this.values[i], x = Math.round(this.x(i)) + 0.5;
		const words = known(value) ? this.words(value) : "";
		say(this.value, words || "–");
		say(this.when, at === null || !this.until ? "" : clock(this.until - (this.count - 1 - i) * this.step * 1e9));
		attr(this.touch, { "aria-valuemax": this.count - 1, "aria-valuenow": i, "aria-valuetext": `${words || "no reading"}, ${this.when.textContent || "now"}` });
		attr(this.cursor, { d: at === null ? "" : `M${x} 8V${FLOOR}` });
	}

	point(event) {
		const part = (event.clientX - this.touch.getBoundingClientRect().left - SIDE) / (this.width - 2 * SIDE);
		this.go(Math.round(part * (this.count - 1)));
	}

	go(at) {
		this.reads(Math.max(0, Math.min(this.count - 1, at)));
	}

	key(event) {
		const by = { ArrowLeft: -1, ArrowRight: 1, Home: -COLUMNS, End: COLUMNS }[event.key];
		if (event.key === "Escape") this.reads(null);
		if (by === undefined) return;
		event.preventDefault();
		this.go((this.at ?? this.count - 1) + by);
	}
}

/** Takes a `history` event into a history. False where it does not follow: the whole has to be asked for again. */
export function extend(history, { until, values }) {
	const { series, step_s: step, until: before } = history ?? {};
	if (!before || Math.abs((until - before) / 1e9 / step - 1) > 0.5 || Object.keys(values).some((name) => !series[name])) return false;
	for (const name of Object.keys(series)) series[name] = [...series[name], values[name] ?? null].slice(-COLUMNS);
	history.until = until;
	return true;
}
