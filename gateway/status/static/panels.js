// The panels below the charts: newest records, dead letters, the log, the configuration in use.

import { attr, byId, el, keyed, named, pre, say, sign, terms, visible } from "./dom.js";
import { get } from "./live.js";
import { ago, bytes, clock, duration, exact, known, many, number, pieces, pretty } from "./words.js";

const ROWS = 60; // records that are shown
const DEAD_EVERY_S = 5; // how often dead letters are asked for at most

/** A line that opens; `body()` makes what is inside, when it is opened first. */
const opening = (summary, body) => el("details", { toggle: ({ target }) => target.open && target.childElementCount < 2 && target.append(...body()) }, el("summary", summary));

/** The newest records of a chosen stream, as they come; held while somebody reads one. */
export class Records {
	constructor(follow) {
		Object.assign(this, { follow, list: byId("records"), choice: byId("stream"), button: byId("pause"), note: byId("records-note") });
		this.choice.addEventListener("change", () => this.choose(this.choice.value));
		this.button.addEventListener("click", () => this.pause(!this.paused));
		this.list.addEventListener("toggle", ({ target }) => target.open && this.pause(true), true);
	}

	/** The streams there are; until somebody chooses, the one with the most news. */
	show({ streams }) {
		keyed(this.choice, streams, (row) => row.name, (row) => el("option", { value: row.name }, visible(row.name, 80)));
		if (!streams.length) {
			if (this.stream) this.follow((this.stream = null));
			say(this.note, "Nothing is recorded yet.");
		} else if (!streams.some((row) => row.name === this.stream)) {
			this.choose(streams.reduce((best, row) => (row.name !== "_dead" && (best.name === "_dead" || row.rate > best.rate) ? row : best)).name);
		}
	}

	choose(stream) {
		this.stream = this.choice.value = stream;
		this.items = [];
		this.pause(false);
		say(this.note, "Waiting for records");
		this.follow(stream);
	}

	pause(paused) {
		this.paused = paused;
		this.unseen = 0;
		attr(this.button, { "aria-pressed": String(paused) });
		say(this.button, paused ? "Go on" : "Pause");
		say(this.note, paused ? "Held" : "");
		if (!paused) this.draw();
	}

	add({ stream, records, skipped }) {
		if (stream !== this.stream) return;
		const news = records.map((record) => ({ id: String(record.gap ?? record.o), record }));
		if (skipped > 0) news.unshift({ id: `before ${news[0]?.id}`, skipped });
		this.items = [...news.reverse(), ...this.items].slice(0, ROWS);
		this.unseen += records.length + skipped;
		say(this.note, this.paused ? `Held; ${number(this.unseen)} came since` : "");
		if (!this.paused) this.draw();
	}

	draw() {
		keyed(this.list, this.items, (item) => item.id, ({ record, skipped }) => {
			if (skipped) return el("li.aside", `${many(skipped, "more record")} passed by`);
			if (record.gap) return el("li.aside", `Records ${number(record.gap[0])} to ${number(record.gap[1])} are gone: ${visible(record.cause, 80)}`);
			const line = pieces(record.v).map(([kind, text]) => el(`span.${kind}`, text));
			return el("li", opening([el("time", clock(record.t, 12)), named(record.k), el("span.long", line)], () => [
				terms([["Time", clock(record.t, 12)], ["Offset", number(record.o)], ["Key", named(record.k, 1000)], record.r && ["Retained", "yes"]]), pre(pretty(record.v)),
			]));
		});
	}
}

/** What could not be processed: by reason, and the newest ones. */
export class Dead {
	constructor() {
		this.asked = 0;
		this.head = el("p");
		this.reasons = el("ul.reasons");
		this.newer = el("button.wide", { hidden: true, click: () => this.draw() }, "Show newer ones");
		this.list = el("ol.rows");
		this.how = el("p.soft", { hidden: true }, el("code", "tidegate dead"), " lists them and shows their bytes.");
		byId("dead").append(this.head, this.reasons, this.newer, this.list, this.how);
	}

	/** Ask if it is time. */
	async show() {
		if (Date.now() - this.asked < DEAD_EVERY_S * 1000) return;
		this.asked = Date.now();
		try {
			this.answer = await get("/api/v1/dead?limit=20", exact);
		} catch {
			return; // what is shown stays
		}
		const { total, suppressed, records } = this.answer, none = !records.length;
		byId("dead-badge").hidden = !total;
		say(byId("dead-badge"), total > 9999 ? "9,999+" : number(total));
		say(this.head, none ? "None. A record that cannot be processed comes here with the reason. Of many alike some are kept, and all are counted."
			: `${many(total, "dead letter")} since the start${suppressed > 0 ? `; ${number(suppressed)} of them, like others, were only counted` : ""}.`);
		this.how.hidden = none;
		this.count();
		// What somebody reads stays where it is.
		this.newer.hidden = !this.list.querySelector("[open]") || String(records[0]?.offset) === this.newest;
		if (this.newer.hidden) this.draw();
	}

	count() {
		const reasons = this.answer.reasons.slice(0, 8), most = Math.max(...reasons.map((row) => row.count));
		keyed(this.reasons, reasons, (row) => `${row.by} ${row.step} ${row.reason}`,
			(row) => el("li", el("span.share"), el("b"), el("span", visible(row.reason, 300)), el("span.soft", `${visible(row.by, 60)} at ${visible(row.step, 80)}, last `, el("time"))),
			(node, row) => {
				node.firstChild.style.width = `${(100 * row.count) / most}%`;
				say(node.querySelector("b"), number(row.count));
				say(node.querySelector("time"), clock(row.last));
			});
	}

	draw() {
		const records = this.answer.records;
		this.newer.hidden = true;
		this.newest = String(records[0]?.offset);
		keyed(this.list, records, (record) => String(record.offset), (record) => el("li", opening([el("time", clock(record.time)), named(record.key), el("span.long", visible(record.reason))], () => [
			terms([
				["Reason", visible(record.reason, 1000)], ["Step", `${visible(record.by, 80)}, ${visible(record.step)}`], ["Record", `${visible(record.stream, 80)}, offset ${number(record.source_offset)}`],
				["Key", named(record.key, 1000)], record.more > 0 && ["Like it", `${number(record.more)} more were only counted`],
			]), el("p.soft", "The payload as it came:"), pre(record.raw ?? pretty(record.value)),
		])));
	}
}

/** The log: how full, how far back, and what pulling the plug would cost. */
export class LogPanel {
	constructor() {
		this.lead = el("p.lead");
		this.level = el("span");
		this.gauge = el("div.gauge", { role: "img" }, this.level);
		this.facts = el("dl");
		byId("log").append(this.lead, this.gauge, this.facts);
	}

	show({ log, streams, uptime_s: up, loss_window_records: loss }) {
		const part = Math.min(100, (100 * log.bytes) / log.limit_bytes) || 0, lost = streams.reduce((sum, row) => sum + (row.lost ?? 0), 0);
		say(this.lead, `${bytes(log.bytes)} of ${bytes(log.limit_bytes)}`);
		this.level.style.width = `${part}%`;
		attr(this.gauge, { "aria-label": `${Math.round(part)} percent of the log is used` });
		const facts = [
			["Reaches back", known(log.horizon_s) ? duration(log.horizon_s) : "nothing is kept yet"],
			["Room", known(log.room_s) ? `for ${duration(log.room_s)} at the present rate` : part > 97 ? "full; the oldest makes room for the newest" : "not filling at present"],
			["A power cut now", loss ? `would cost ${many(loss, "record")} that no source sends again` : "would cost nothing"],
			["Lost so far", lost ? `${many(lost, "record")}, forgotten before everyone had them` : "nothing, since the start"],
			["Commits", `${number(log.commits)}${log.commits ? `, one every ${(up / log.commits).toFixed(1)} s` : ""}`],
			["Written to the disk", `${bytes(log.device_bytes)}${up > 600 ? `, ${bytes((log.device_bytes / up) * 86400)} a day` : ""}`],
			["Folder", visible(log.path, 300)],
		];
		keyed(this.facts, facts, ([term]) => term, ([term]) => el("div", el("dt", term), el("dd")), (node, [term, text]) => {
			say(node.lastChild, text);
			attr(node.lastChild, { class: term === "Lost so far" && lost > 0 && "trouble" });
		});
	}
}

/** The configuration in use, and why a newer one was refused. */
export class ConfigPanel {
	constructor() {
		this.lead = el("p.lead");
		this.files = el("ul");
		this.refused = el("div.refused", { role: "alert" });
		byId("config").append(this.lead, this.files, this.refused);
	}

	show({ config: { files, loaded, reloads, problems }, now }) {
		say(this.lead, `Loaded ${ago(loaded, now)}${reloads ? `, ${many(reloads, "reload")} since the start` : ""}`);
		keyed(this.files, files.slice(0, 50), String, (file) => el("li", el("code", visible(file, 300))));
		keyed(this.refused, problems.length ? [problems] : [], JSON.stringify, () => el("div",
			el("p.attention", sign("attention"), " The last reload was refused. What was loaded before is still in use."),
			el("ol", problems.slice(0, 20).map((each) => el("li", el("code", `${visible(each.file)}:${each.line}:${each.column}`), el("b", visible(each.path)), visible(each.message, 600)))),
			el("p.soft", problems.length > 20 ? `And ${problems.length - 20} more. ` : "", "Correct the file, then: ", el("code", "tidegate reload")),
		));
	}
}
