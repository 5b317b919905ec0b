// The models and who offers them; for the admin with numbers of the last 24 hours.

import { startAliases } from "./aliases.js";
import { call, isAdmin } from "./api.js";
import { build, find, setHidden, setText } from "./dom.js";
import { count, milliseconds, NOTHING, plural } from "./format.js";
import { startFrame } from "./frame.js";
import { live } from "./live.js";
import { standing } from "./offer.js";
import { greeting } from "./snippets.js";
import { snippetTabs } from "./tabs.js";
import { toastError } from "./toasts.js";
import { verdictChip } from "./verdicts.js";

const ASK_AGAIN_MS = 10_000;
const SERVERS_NAMED = 12;

startFrame({ listsModels: true });

const rows = new Map();
const search = find("#search");
let servers = new Map();
const aliases = isAdmin ? startAliases() : null;

/** One record for both kinds of visitors. */
async function ask() {
  if (isAdmin) {
    const { models } = await call("GET", "/admin/models");
    return models;
  }
  const { data } = await call("GET", "/v1/models");
  return data.map((model) => ({ model_name: model.id, servers: model.servers, healthy_servers: model.healthy_servers, alias_of: model.alias_of }));
}

class ModelRow {
  constructor(model) {
    this.name = model.model_name;
    const snippetId = `snippet-${rows.size}`;
    this.toggle = build("button", { type: "button", class: "quiet", "aria-expanded": "false", "aria-controls": snippetId }, "Snippet");
    this.toggle.addEventListener("click", () => this.#toggle());
    this.health = build("span", { class: "muted" });
    this.named = build("div", { class: "servers" });
    this.numbers = isAdmin ? [build("td", { class: "number medium" }), build("td", { class: "number medium" }), build("td", { class: "number medium" })] : [];
    const tryIt = build("a", { href: `/playground?model=${encodeURIComponent(this.name)}` }, "Try it");
    const line = build(
      "tr",
      {},
      build("td", { class: "model" }, build("span", { class: "model-name" }, this.name)),
      build("td", {}, this.health, this.named),
      ...this.numbers,
      build("td", {}, build("span", { class: "actions" }, tryIt, this.toggle)),
    );
    this.place = build("td", { colspan: String(3 + this.numbers.length) });
    this.detail = build("tr", { id: snippetId, class: "detail" }, this.place);
    this.detail.hidden = true;
    this.element = build("tbody", {}, line, this.detail);
  }

  update(model) {
    setText(this.health, standing(model));
    if (isAdmin) {
      setText(this.numbers[0], model.failed ? `${count(model.requests)} (${count(model.failed)} failed)` : count(model.requests));
      setText(this.numbers[1], milliseconds(model.first_token_ms));
      setText(this.numbers[2], model.tokens_per_second === null ? NOTHING : count(model.tokens_per_second));
      this.showServers();
    }
  }

  showServers() {
    const mine = [...servers.values()].filter((server) => server.model_name === this.name);
    const shown = JSON.stringify(mine.map((server) => [server.registration_id, server.health_status, server.owner_name]));
    if (this.named.dataset.shown === shown) {
      return;
    }
    this.named.dataset.shown = shown;
    const links = mine.slice(0, SERVERS_NAMED).map((server) => {
      const chip = verdictChip(server.health_status);
      return build("a", { href: `/servers/${server.registration_id}`, title: server.reason ?? server.endpoint_url }, chip, build("span", {}, server.owner_name ?? new URL(server.endpoint_url).host));
    });
    this.named.replaceChildren(...links, mine.length > SERVERS_NAMED ? `and ${mine.length - SERVERS_NAMED} more` : "");
  }

  #toggle() {
    const open = this.detail.hidden;
    if (open && !this.place.hasChildNodes()) {
      this.place.append(snippetTabs(() => greeting(this.name), `Code that calls ${this.name}`).element);
    }
    setHidden(this.detail, !open);
    this.toggle.setAttribute("aria-expanded", String(open));
  }
}

function show(models) {
  const table = find("#models-table table");
  const names = new Set(models.map((model) => model.model_name));
  for (const [name, row] of rows) {
    if (!names.has(name)) {
      row.element.remove();
      rows.delete(name);
    }
  }
  for (const model of models) {
    if (!rows.has(model.model_name)) {
      const row = new ModelRow(model);
      rows.set(model.model_name, row);
      table.append(row.element);
    }
    rows.get(model.model_name).update(model);
  }
  document.querySelector("#models")?.remove();
  filter();
  aliases?.showModels(models);
}

function filter() {
  const wanted = search.value.trim().toLowerCase();
  let matching = 0;
  for (const [name, row] of rows) {
    const matches = name.toLowerCase().includes(wanted);
    matching += matches;
    setHidden(row.element, !matches);
  }
  setHidden(find("#models-table"), matching === 0);
  setText(find("#matches"), matching === rows.size ? plural(rows.size, "model") : `${count(matching)} of ${plural(rows.size, "model")}`);
  const empty = find("#no-models");
  setHidden(empty, matching > 0);
  setText(empty, rows.size ? "No model has such a name." : "Nothing is on offer right now. As soon as somebody registers a server, its model is here.");
  const address = new URL(location.href);
  if (wanted) {
    address.searchParams.set("search", search.value.trim());
  } else {
    address.searchParams.delete("search");
  }
  if (address.href !== location.href) {
    history.replaceState(null, "", address);
  }
}

let asking = null;

async function refresh() {
  clearTimeout(asking);
  try {
    show(await ask());
  } catch (error) {
    if (error.status === 401) {
      setText(find("#no-models"), error.message);
      setHidden(find("#no-models"), false);
    } else if (error.status !== 0) {
      toastError(error);
    }
  } finally {
    find("#models-card").removeAttribute("aria-busy");
  }
  asking = setTimeout(refresh, ASK_AGAIN_MS);
}

search.value = new URLSearchParams(location.search).get("search") ?? "";
search.addEventListener("input", filter);
find("#search-form").addEventListener("submit", (event) => event.preventDefault());
if (isAdmin) {
  live.on("servers", (news) => {
    servers = news.servers;
    refresh();
  });
}
refresh();
