// The only place that makes elements. Text from outside becomes text nodes, never markup.

const SVG = "http://www.w3.org/2000/svg";
// Control characters, and those that hide or turn round what stands beside them.
const UNSEEN = /[\0-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff9-\ufffb]|\p{Cs}/gu;
const escaped = (c) => ({ "\n": "\\n", "\r": "\\r", "\t": "\\t" })[c] ?? `\\u{${c.codePointAt(0).toString(16)}}`;
const cut = (text, most) => ((text = String(text ?? "")).length > most ? text.slice(0, most) + "…" : text);

/** Text from outside, at most `most` characters, with everything seen that would not be. */
export const visible = (text, most = 200) => cut(text, most).replace(UNSEEN, escaped);

/** The same for several lines: line breaks stay. */
export const lines = (text, most = 4096) => cut(text, most).replace(UNSEEN, (c) => (c === "\n" ? c : escaped(c)));

function fill(node, [name, ...classes], [first, ...rest]) {
	if (classes.length) node.setAttribute("class", classes.join(" "));
	if (Object.getPrototypeOf(first ?? "") !== Object.prototype) rest.unshift(first);
	else attr(node, first);
	node.append(...rest.flat(9).filter((child) => child || child === 0));
	return node;
}

/** el("p.soft", {click: handler}, "text", node, [more], …): names of attributes are ours, never from outside. */
export const el = (what, ...children) => fill(document.createElement(what.split(".")[0]), what.split("."), children);
export const svg = (what, ...children) => fill(document.createElementNS(SVG, what.split(".")[0]), what.split("."), children);

/** A name from outside; more of it in the tooltip. */
export const named = (text, most = 80) => el("bdi", { title: visible(text, 1000) }, visible(text, most));

export const byId = (id) => document.getElementById(id);

export function say(node, text) {
	if (node.textContent !== text) node.textContent = text;
}

/** Set attributes; null, undefined and false take one away, a function listens. */
export function attr(node, values) {
	for (const [name, value] of Object.entries(values)) {
		if (typeof value === "function") node.addEventListener(name, value);
		else if (value == null || value === false) node.removeAttribute(name);
		else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? "" : value);
	}
}

/** The children of `parent` follow `items`; one whose key stays is the same element, with focus and all. */
export function keyed(parent, items, keyOf, make, update = () => {}) {
	const known = parent.known ?? new Map(), now = new Map();
	let place = parent.firstChild;
	for (const item of items) {
		const key = keyOf(item);
		if (now.has(key)) continue;
		const node = known.get(key) ?? make(item);
		update(node, item);
		now.set(key, node);
		if (node === place) place = place.nextSibling;
		else parent.insertBefore(node, place);
	}
	for (const [key, node] of known) if (!now.has(key)) node.remove();
	parent.known = now;
}

export const pre = (text, most) => el("pre", { tabindex: 0 }, lines(text, most));

/** [[term, what about it …] or nothing, …] as a list of terms. */
export const terms = (pairs) => el("dl", pairs.filter(Boolean).map(([term, ...about]) => el("div", el("dt", term), el("dd", about))));

const ROUND = "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1z";
const SHAPES = {
	ok: [ROUND, "M4.8 8.3l2.2 2.2 4.2-4.6"],
	attention: ["M8 1.2 15.2 14.4H.8z", "M8 6v4M8 12.2v.1"],
	trouble: ["M5 1h6l4 4v6l-4 4H5l-4-4V5z", "M5.6 5.6l4.8 4.8M10.4 5.6l-4.8 4.8"],
	quiet: [ROUND, "M5 8h.1M8 8h.1M11 8h.1"],
};

/** The sign of a level: its shape says it, not its colour alone. */
export function sign(level) {
	const [body, mark] = SHAPES[level];
	return svg(`svg.sign.${level}`, { viewBox: "0 0 16 16" }, svg("path.body", { d: body }), svg("path.tick", { d: mark }));
}
