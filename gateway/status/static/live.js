// The line to the gateway: server-sent events, again after every break, and questions where no line is free.

import { exact } from "./words.js";

const SILENT_S = 25; // a history event comes every 10 s: the line is dead, whatever the browser thinks
const ASK_S = 5; // how often to ask where the gateway has no line free
const HIDDEN_S = 30; // a page that nobody sees costs the gateway nothing after this

/** GET a path; the JSON of the answer, read by `read`. Throws an Error with `status`. */
export async function get(path, read = JSON.parse) {
	const answer = await fetch(path, { headers: { accept: "application/json" }, signal: AbortSignal.timeout(15000) });
	const code = answer.redirected ? 401 : answer.status; // sent on to the login
	if (code !== 200) throw Object.assign(new Error(`${path}: ${code}`), { status: code });
	return read(await answer.text());
}

/** `on` has status(data), history(data), records(data), and changed(state, heard in ms): connecting, live, asking, away, login. */
export class Live {
	constructor(on) {
		Object.assign(this, { on, stream: null, state: "connecting", heard: 0, failures: 0 });
	}

	start() {
		this.open();
		setInterval(() => this.watch(), 1000);
		document.addEventListener("visibilitychange", () => {
			this.hiddenAt = document.hidden ? Date.now() : 0;
			if (!document.hidden && !this.source) this.open();
		});
	}

	/** Have the records of another stream, too. */
	follow(stream) {
		this.stream = stream;
		if (this.source) this.open();
	}

	open() {
		this.close();
		this.opened = Date.now();
		const source = (this.source = new EventSource(`/api/v1/events${this.stream === null ? "" : `?stream=${encodeURIComponent(this.stream)}`}`));
		for (const name of ["status", "history", "records"]) {
			source.addEventListener(name, ({ data }) => {
				if (source !== this.source) return;
				this.heard = Date.now();
				this.failures = 0;
				this.become("live");
				this.on[name]((name === "records" ? exact : JSON.parse)(data));
			});
		}
		source.addEventListener("error", () => source === this.source && this.broken());
	}

	close() {
		clearTimeout(this.timer);
		this.source?.close();
		this.source = null;
	}

	async broken() {
		this.close();
		this.failures += 1;
		if (this.state === "live") this.become("away");
		let wait = Math.min(10, 2 ** (this.failures - 1)) * (0.75 + Math.random() / 2);
		try {
			const status = await get("/api/v1/status");
			if (this.source) return; // opened meanwhile
			this.heard = Date.now();
			wait = this.failures > 1 ? ASK_S : 0.2;
			if (this.failures > 1) this.become("asking"); // its lines are taken
			this.on.status(status);
		} catch (error) {
			if (this.source) return;
			this.become(error.status === 401 ? "login" : "away");
		}
		this.timer = setTimeout(() => this.open(), wait * 1000);
	}

	watch() {
		const now = Date.now();
		if (this.hiddenAt && now - this.hiddenAt > HIDDEN_S * 1000) this.close();
		else if (this.source && now - Math.max(this.heard, this.opened) > SILENT_S * 1000) this.broken();
		this.on.changed(this.state, this.heard);
	}

	become(state) {
		this.state = state;
		this.on.changed(state, this.heard);
	}
}
