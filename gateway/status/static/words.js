// Figures as people say them. Times are ns since 1970, UTC, and shown in the time of who looks.

import { visible } from "./dom.js";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
export const known = (n) => Number.isFinite(Number(n ?? NaN));

export const number = (n) => (known(n) ? whole.format(n) : "–");

/** "1 record", "48,210 records". */
export const many = (n, one, more = one + "s") => `${number(n)} ${Number(n) === 1 ? one : more}`;

/** Records per second as it reads best: "400/s", "4.2/s", "12/min", "3/h". */
export function rate(n) {
	if (!known(n)) return "–";
	if (n >= 9.95 || n === 0) return `${whole.format(n)}/s`;
	if (n >= 0.1) return `${fine.format(n)}/s`;
	return n >= 1 / 600 ? `${fine.format(n * 60)}/min` : `${fine.format(n * 3600)}/h`;
}

export function bytes(n) {
	if (!known(n)) return "–";
	let unit = 0;
	for (; n >= 1024 && unit < 4; unit += 1) n /= 1024;
	return `${n < 10 && unit ? fine.format(n) : whole.format(n)} ${["bytes", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

/** Seconds as words: "12 s", "12 min", "3 h 20 min", "9 days". */
export function duration(s) {
	if (!known(s)) return "–";
	if (s < 60) return s < 1 ? "under 1 s" : `${Math.floor(s)} s`;
	const min = Math.floor(s / 60), h = Math.floor(s / 3600), days = Math.floor(s / 86400);
	if (h < 1) return `${min} min`;
	if (days < 1) return min % 60 && h < 10 ? `${h} h ${min % 60} min` : `${h} h`;
	return days === 1 ? `1 day ${h - 24} h` : `${number(days)} days`;
}

/** "14:02:07", with the date if it is not today; `digits` of it: 5 for minutes, 8 for seconds, 12 for thousandths. */
export function clock(ns, digits = 8) {
	const at = new Date(Number(ns ?? NaN) / 1e6);
	if (Number.isNaN(at.getTime())) return "–";
	const [day, time] = new Date(at - at.getTimezoneOffset() * 60000).toISOString().split("T");
	const text = time.slice(0, digits);
	return at.toDateString() === new Date().toDateString() ? text : `${day} ${text}`;
}

export const ago = (ns, now) => (known(ns) ? `${duration(Math.max(0, (Number(now) - Number(ns)) / 1e9))} ago` : "never");

/** Whether a part takes no records now. */
export const away = ({ state }) => state === "waiting" || state === "failed";
export const levelOf = (state) => ({ up: "ok", waiting: "attention", failed: "trouble" })[state] ?? "quiet";
export const stateOf = (state) => (state === "waiting" ? "waits" : visible(state ?? "not known", 20));

// A number in a payload that JavaScript would write differently (21.30, 12345678901234567890) is shown as it came.
class Exact {
	constructor(source) {
		this.source = source;
	}
	valueOf() {
		return Number(this.source);
	}
	toJSON() {
		return JSON.rawJSON ? JSON.rawJSON(this.source) : Number(this.source);
	}
}

/** JSON with the numbers as they were written: for payloads. */
export const exact = (text) =>
	JSON.parse(text, (_, value, context) => (typeof value === "number" && context?.source && String(value) !== context.source ? new Exact(context.source) : value));

const written = (value, indent) => (typeof value === "string" ? value : JSON.stringify(value, null, indent) ?? "");

/** A wire value in full, over several lines. */
export const pretty = (value) => written(value, 2);

/** A wire value for one line: [what, text] of names ("soft"), numbers ("num") and the rest, about `most` characters. */
export function pieces(value, most = 240) {
	const out = [];
	const put = (kind, text) => {
		if (most > 0) out.push([kind, visible(text, most)]);
		most -= text.length;
	};
	const tell = (v) => put(typeof v === "number" || v instanceof Exact ? "num" : "text", written(v));
	if (Object.getPrototypeOf(value ?? "") !== Object.prototype) tell(value);
	else {
		for (const [name, v] of Object.entries(value)) {
			put("soft", `${out.length ? "  " : ""}${name} `);
			tell(v);
		}
	}
	return out;
}
