// The dashboard: numbers, the last hour, and the table of servers; what is on offer, for those who are not signed in.

import { call, isAdmin } from "./api.js";
import { trafficChart } from "./chart.js";
import { startClassroom } from "./classroom.js";
import { build, codeBlock, find, setHidden, setText } from "./dom.js";
import { compact, count, milliseconds, plural } from "./format.js";
import { startFrame } from "./frame.js";
import { live } from "./live.js";
import { showOffer } from "./offer.js";
import { ServerTable } from "./server_table.js";
import { lendLine } from "./snippets.js";
import { toastError } from "./toasts.js";

const HISTORY_MS = 15_000;
const SOONEST_HISTORY_MS = 2000;

startFrame({ listsModels: true });

function showCounts({ servers, models, requests }) {
  setText(find("#servers-total"), compact(servers.total));
  setText(find("#servers-verdicts"), `${count(servers.healthy)} healthy · ${count(servers.unhealthy)} unhealthy · ${count(servers.unknown)} unknown`);
  setText(find("#in-flight"), count(requests.in_flight));
  setText(find("#queued"), requests.queued ? `${requests.queued} in the queue` : "nobody waits");
  setText(find("#models-registered"), `of ${count(models)} registered`);
  find("#tiles").removeAttribute("aria-busy");
}

function showModels(servers) {
  const offered = new Set();
  for (const server of servers.values()) {
    if (server.health_status === "healthy") {
      offered.add(server.model_name);
    }
  }
  setText(find("#models-offered"), count(offered.size));
  const empty = servers.size === 0;
  setHidden(find("#first-server"), !empty);
  setHidden(find("#servers-card"), empty);
  setHidden(find("#chart-card"), empty);
}

function showFirstCommands() {
  const steps = [
    ["Start a server, for example Ollama, so that others can reach it:", "OLLAMA_HOST=0.0.0.0 ollama serve"],
    ["Give it a model:", "ollama pull llama3.2"],
    ["Lend it; the gateway finds it where it is asked from:", lendLine("$MULTIVERSE_API_KEY")],
  ];
  find("#first-commands").append(...steps.map(([text, command]) => build("li", {}, text, codeBlock(command))));
}

class History {
  #chart = trafficChart(find("#chart"));
  #asked = 0;
  #timer = null;

  /** Soon, but not more often than every two seconds, however much happens. */
  want() {
    if (this.#timer === null) {
      const wait = Math.max(this.#asked + SOONEST_HISTORY_MS - Date.now(), 0);
      this.#timer = setTimeout(() => this.#load(), wait);
    }
  }

  async #load() {
    this.#asked = Date.now();
    try {
      this.#show(await call("GET", "/admin/history"));
    } catch (error) {
      if (error.status !== 0 && error.status !== 401) {
        toastError(error);
      }
    } finally {
      this.#timer = null;
    }
  }

  #show({ minutes, today }) {
    setText(find("#requests-today"), compact(today.total));
    setText(find("#failed-today"), today.failed ? `${count(today.failed)} failed` : "none failed");
    setText(find("#tokens-today"), compact(today.prompt_tokens + today.completion_tokens));
    setText(find("#tokens-split"), `${compact(today.prompt_tokens)} in · ${compact(today.completion_tokens)} out`);
    const total = minutes.reduce((sum, minute) => sum + minute.total, 0);
    const failed = minutes.reduce((sum, minute) => sum + minute.failed, 0);
    const waits = minutes.map((minute) => minute.first_token_ms).filter((wait) => wait !== null);
    const mean = waits.length ? waits.reduce((sum, wait) => sum + wait, 0) / waits.length : null;
    const words = [
      ["requests", plural(total, "request")],
      ["failures", `${count(failed)} failed`],
      ["wait", mean === null ? "no first token yet" : `first token after ${milliseconds(mean)}`],
    ];
    find("#chart-legend").replaceChildren(...words.map(([kind, text]) => build("span", { class: "key", dataset: { kind } }, text)));
    find("#chart").setAttribute("role", "img");
    find("#chart").setAttribute("aria-label", `The last hour: ${words.map(([, text]) => text).join(", ")}`);
    this.#chart.show([
      minutes.map((minute) => Date.parse(minute.started_at) / 1000),
      minutes.map((minute) => minute.total),
      minutes.map((minute) => minute.failed),
      minutes.map((minute) => minute.first_token_ms),
    ]);
  }
}

if (isAdmin) {
  const table = new ServerTable();
  const history = new History();
  showFirstCommands();
  startClassroom();
  live.on("counts", (counts) => {
    showCounts(counts);
    history.want();
  });
  live.on("servers", (news) => {
    showModels(news.servers);
    table.apply(news);
  });
  history.want();
  setInterval(() => document.hidden || history.want(), HISTORY_MS);
} else {
  setText(find("#base-url"), `${location.origin}/v1`);
  showOffer(find("#offer"), find("#offer-count"));
}
