// What changes, as it changes: one stream of events per page, with back-off, and polling while the stream cannot be had.
//
// on("servers", …) gets {servers: Map, changed: Set, removed: Set, all: boolean}; on("counts", …) the counts;
// on("logs", …) the id of the latest record; on("state", …) one of live, connecting, polling, lost, ended.

import { ApiError, call } from "./api.js";

const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 30_000;
const POLL_MS = 5000;
const FAILURES_BEFORE_POLLING = 2;

class Live {
  #listeners = new Map();
  #servers = new Map();
  #source = null;
  #streams = true;
  #failures = 0;
  #retryTimer = null;
  #pollTimer = null;
  #pollsServers = false;
  #loading = null;
  #state = "";

  on(kind, listener) {
    const known = this.#listeners.get(kind) ?? [];
    this.#listeners.set(kind, [...known, listener]);
    if (kind === "servers") {
      this.#pollsServers = true;
    }
  }

  start() {
    // A browser opens six connections to one host, and a hidden tab should not hold one of them.
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#pause() : this.#connect()));
    window.addEventListener("pagehide", () => this.#pause());
    if (!document.hidden) {
      this.#connect();
    }
  }

  /** For those who may see their own servers only, whom the stream is not for: asks for them every few seconds. */
  startAsking() {
    this.#streams = false;
    setTimeout(() => this.#pollsServers && this.start()); // Once the page's module has said what it listens to.
  }

  retryNow() {
    if (this.#state !== "live" && !document.hidden) {
      this.#connect();
    }
  }

  #emit(kind, detail) {
    for (const listener of this.#listeners.get(kind) ?? []) {
      listener(detail);
    }
  }

  #setState(state) {
    if (this.#state !== state) {
      this.#state = state;
      this.#emit("state", state);
    }
  }

  #pause() {
    clearTimeout(this.#retryTimer);
    clearInterval(this.#pollTimer);
    this.#pollTimer = null;
    this.#source?.close();
    this.#source = null;
    this.#state = "";
  }

  #connect() {
    clearTimeout(this.#retryTimer);
    this.#source?.close();
    if (this.#state === "") {
      this.#setState("connecting");
    }
    if (!this.#streams) {
      this.#startPolling();
      return;
    }
    const source = new EventSource("/admin/events");
    this.#source = source;
    source.addEventListener("hello", () => this.#greeted());
    source.addEventListener("servers", (event) => this.#changed(JSON.parse(event.data)));
    source.addEventListener("counts", (event) => this.#emit("counts", JSON.parse(event.data)));
    source.addEventListener("logs", (event) => this.#emit("logs", JSON.parse(event.data).last_id));
    source.addEventListener("error", () => {
      if (this.#source === source) {
        this.#failed();
      }
    });
  }

  #greeted() {
    this.#failures = 0;
    clearInterval(this.#pollTimer);
    this.#pollTimer = null;
    this.#setState("live");
    window.dispatchEvent(new CustomEvent("reachable", { detail: true }));
    this.#loadServers().catch(() => this.#failed());
  }

  #failed() {
    // The browser's own retry knows no back-off, and none after an answer other than 200.
    this.#source?.close();
    this.#source = null;
    this.#failures += 1;
    if (this.#failures >= FAILURES_BEFORE_POLLING) {
      this.#startPolling();
    } else {
      this.#setState("connecting");
    }
    const wait = Math.min(FIRST_WAIT_MS * 2 ** (this.#failures - 1), LONGEST_WAIT_MS);
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => this.#connect(), wait * (0.75 + Math.random() / 2));
  }

  #startPolling() {
    if (this.#pollTimer === null) {
      this.#pollTimer = setInterval(() => this.#poll(), POLL_MS);
      this.#poll();
    }
  }

  async #poll() {
    try {
      if (this.#streams) {
        this.#emit("counts", await call("GET", "/admin/stats"));
        this.#emit("logs", Number.MAX_SAFE_INTEGER);
      }
      await this.#loadServers();
      if (this.#pollTimer !== null) {
        this.#setState("polling");
      }
    } catch (error) {
      if (!(error instanceof ApiError)) {
        throw error;
      }
      const ended = error.status === 401 || error.status === 403; // Signed out, or in with another key meanwhile.
      this.#setState(ended ? "ended" : "lost");
      if (ended) {
        this.#pause();
      }
    }
  }

  async #loadServers() {
    if (!this.#pollsServers) {
      return;
    }
    // Changes that come while the list is on its way are newer than the list.
    const loading = (this.#loading = { changed: new Map(), removed: new Set() });
    const { servers } = await call("GET", "/admin/servers");
    if (this.#loading !== loading) {
      return;
    }
    this.#loading = null;
    this.#servers = new Map(servers.map((server) => [server.registration_id, server]));
    for (const [id, server] of loading.changed) {
      this.#servers.set(id, server);
    }
    for (const id of loading.removed) {
      this.#servers.delete(id);
    }
    this.#emit("servers", { servers: this.#servers, changed: new Set(this.#servers.keys()), removed: new Set(), all: true });
  }

  #changed({ changed, removed }) {
    for (const server of changed) {
      this.#servers.set(server.registration_id, server);
      this.#loading?.changed.set(server.registration_id, server);
      this.#loading?.removed.delete(server.registration_id);
    }
    for (const id of removed) {
      this.#servers.delete(id);
      this.#loading?.changed.delete(id);
      this.#loading?.removed.add(id);
    }
    if (this.#loading === null) {
      const ids = new Set(changed.map((server) => server.registration_id));
      this.#emit("servers", { servers: this.#servers, changed: ids, removed: new Set(removed), all: false });
    }
  }
}

export const live = new Live();
