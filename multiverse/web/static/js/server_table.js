// The table of servers: filtered, sorted, kept in the URL, changed row by row so that focus, scroll and open rows stay.

import { build, copyButton, find, setHidden, setText } from "./dom.js";
import { count, milliseconds, NOTHING, plural, shortHost, showTime } from "./format.js";
import { availabilityText, availabilityTitle, showVerdict, verdictChip } from "./verdicts.js";

const ROWS_AT_ONCE = 60;
const VERDICT_ORDER = { unhealthy: 0, unknown: 1, healthy: 2 };
const COLUMNS = [
  ["model_name", "Model", ""],
  ["health_status", "Verdict", ""],
  ["endpoint_url", "Host", "wide"],
  ["owner_name", "Owner", "wide"],
  ["response_time_ms", "Response", "number medium"],
  ["in_flight", "In flight", "number"],
  ["last_checked_at", "Last probe", "number medium"],
];

/** Whether a server is one of the classroom's. */
function isPretend(server) {
  return server.tags.includes("pretend") && server.model_name.startsWith("pretend/");
}

class Row {
  constructor(server, onToggle) {
    this.id = server.registration_id;
    this.open = false;
    const detailId = `detail-${this.id}`;
    this.toggle = build("button", { type: "button", class: "row-toggle", "aria-expanded": "false", "aria-controls": detailId });
    this.toggle.addEventListener("click", () => {
      this.setOpen(!this.open);
      onToggle(this);
    });
    this.model = build("span", { class: "model-name" });
    this.toggle.append(this.model);
    this.pretend = build("small", { class: "pretend", title: "A pretend server of the classroom: its answers are made up." }, "pretend");
    this.verdict = verdictChip(server.health_status);
    this.availability = build("small", { class: "availability" });
    this.host = build("span");
    this.owner = build("span", { class: "owner-name" });
    this.response = build("td", { class: "number medium" });
    this.inFlight = build("td", { class: "number" });
    this.probed = build("time", { dataset: { ago: "" } });
    this.line = build(
      "tr",
      {},
      build("td", { class: "model" }, this.toggle, this.pretend),
      build("td", {}, build("span", { class: "verdict-cell" }, this.verdict, this.availability)),
      build("td", { class: "wide" }, this.host),
      build("td", { class: "wide" }, this.owner),
      this.response,
      this.inFlight,
      build("td", { class: "number medium" }, this.probed),
    );
    this.detail = build("tr", { id: detailId, class: "detail" }, build("td", { colspan: String(COLUMNS.length) }));
    this.detail.hidden = true;
    this.element = build("tbody", { dataset: { id: this.id } }, this.line, this.detail);
    this.update(server);
  }

  setOpen(open) {
    this.open = open;
    this.toggle.setAttribute("aria-expanded", String(open));
    setHidden(this.detail, !open);
    if (open) {
      this.#fillDetail();
    }
  }

  update(server) {
    this.server = server;
    setText(this.model, server.model_name);
    setHidden(this.pretend, !isPretend(server));
    showVerdict(this.verdict, server.health_status);
    setText(this.availability, availabilityText(server));
    this.availability.title = server.reason ?? availabilityTitle(server);
    this.verdict.title = server.reason ?? availabilityTitle(server);
    setText(this.host, shortHost(server.endpoint_url));
    this.host.title = server.endpoint_url;
    setText(this.owner, server.owner_name ?? NOTHING);
    setText(this.response, milliseconds(server.response_time_ms));
    setText(this.inFlight, server.slots ? `${server.in_flight} / ${server.slots}` : count(server.in_flight));
    showTime(this.probed, server.last_checked_at);
    if (this.open) {
      this.#fillDetail();
    }
  }

  #fillDetail() {
    const server = this.server;
    if (this.facts === undefined) {
      this.facts = Object.fromEntries(
        ["Reason", "Address", "Owner", "Response", "Last probe", "Last good request", "Tags", "Description"].map((name) => [name, build("dd")]),
      );
      this.address = build("code");
      this.facts.Address.append(this.address, copyButton(() => this.server.endpoint_url));
      this.times = [build("time", { dataset: { ago: "" } }), build("time", { dataset: { ago: "" } })];
      this.facts["Last probe"].append(this.times[0]);
      this.facts["Last good request"].append(this.times[1]);
      const list = build("dl", { class: "facts" });
      for (const [name, value] of Object.entries(this.facts)) {
        list.append(build("div", {}, build("dt", {}, name), value));
      }
      const open = build("a", { href: `/servers/${this.id}` }, "Open this server: probes, edit, drain, delete");
      this.detail.firstElementChild.append(list, open);
    }
    setText(this.facts.Reason, server.reason ?? availabilityTitle(server));
    setText(this.address, server.endpoint_url);
    setText(this.facts.Owner, [server.owner_name, server.owner_email].filter(Boolean).join(", ") || NOTHING);
    setText(this.facts.Response, milliseconds(server.response_time_ms));
    showTime(this.times[0], server.last_checked_at);
    showTime(this.times[1], server.last_successful_request_at);
    setText(this.facts.Tags, server.tags.join(", ") || NOTHING);
    setText(this.facts.Description, server.description ?? NOTHING);
  }
}

export class ServerTable {
  #rows = new Map();
  #order = [];
  #shown = ROWS_AT_ONCE;
  #scheduled = false;
  #table = find("#servers");
  // Times grow older only where somebody sees them: a thousand changes a second would cost a frame or two.
  #sight = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      target.querySelector("time").toggleAttribute("data-ago", isIntersecting);
    }
  }, { rootMargin: "300px" });
  #form = find("#filters");
  #state;

  constructor() {
    this.#readAddress();
    this.#buildHead();
    this.#form.addEventListener("input", () => this.#filtered());
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    find("#clear-filters").addEventListener("click", () => {
      this.#form.reset();
      this.#filtered();
      this.#form.elements.model.focus();
    });
    window.addEventListener("popstate", () => {
      this.#readAddress();
      this.#schedule();
    });
    new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting) && this.#shown < this.#order.length) {
        this.#shown += ROWS_AT_ONCE;
        this.#schedule();
      }
    }, { rootMargin: "600px" }).observe(find("#more"));
  }

  apply({ servers, changed, removed, all }) {
    for (const id of changed) {
      const server = servers.get(id);
      const row = this.#rows.get(id);
      if (row === undefined) {
        this.#rows.set(id, { server, row: null });
      } else {
        row.server = server;
        row.row?.update(server);
      }
    }
    const gone = all ? [...this.#rows.keys()].filter((id) => !servers.has(id)) : removed;
    for (const id of gone) {
      const element = this.#rows.get(id)?.row?.element;
      if (element) {
        this.#sight.unobserve(element);
        element.remove();
      }
      this.#rows.delete(id);
    }
    this.#schedule();
  }

  // -- what is wanted, in the address

  #readAddress() {
    const wanted = new URLSearchParams(location.search);
    const sort = wanted.get("sort") ?? "";
    this.#state = {
      sort: COLUMNS.some(([name]) => name === sort.replace(/^-/, "")) ? sort : "model_name",
      open: new Set((wanted.get("open") ?? "").split(",").filter(Boolean)),
    };
    for (const name of ["model", "verdict", "owner"]) {
      this.#form.elements[name].value = wanted.get(name) ?? "";
    }
  }

  #writeAddress() {
    const wanted = new URLSearchParams();
    for (const [name, value] of new FormData(this.#form)) {
      if (value) {
        wanted.set(name, value);
      }
    }
    if (this.#state.sort !== "model_name") {
      wanted.set("sort", this.#state.sort);
    }
    if (this.#state.open.size) {
      wanted.set("open", [...this.#state.open].join(","));
    }
    const query = wanted.toString().replaceAll("%2C", ",");
    history.replaceState(null, "", query ? `?${query}` : location.pathname);
  }

  #filtered() {
    this.#shown = ROWS_AT_ONCE;
    this.#writeAddress();
    this.#schedule();
  }

  // -- the head

  #buildHead() {
    const head = find("thead tr", this.#table);
    for (const [name, title, kind] of COLUMNS) {
      const button = build("button", { type: "button", class: "sort" }, title);
      button.addEventListener("click", () => {
        this.#state.sort = this.#state.sort === name ? `-${name}` : name;
        this.#writeAddress();
        this.#schedule();
      });
      head.append(build("th", { scope: "col", class: kind, dataset: { name } }, button));
    }
  }

  #showSort() {
    for (const cell of this.#table.querySelectorAll("thead th")) {
      const { sort } = this.#state;
      const direction = sort === cell.dataset.name ? "ascending" : sort === `-${cell.dataset.name}` ? "descending" : null;
      if (direction === null) {
        cell.removeAttribute("aria-sort");
      } else {
        cell.setAttribute("aria-sort", direction);
      }
    }
  }

  // -- the rows

  #schedule() {
    if (!this.#scheduled) {
      this.#scheduled = true;
      requestAnimationFrame(() => {
        this.#scheduled = false;
        this.#show();
      });
    }
  }

  #wanted() {
    const { model, verdict, owner } = Object.fromEntries(new FormData(this.#form));
    const [inModel, inOwner] = [model.trim().toLowerCase(), owner.trim().toLowerCase()];
    return ({ server }) =>
      (!verdict || server.health_status === verdict) &&
      (!inModel || server.model_name.toLowerCase().includes(inModel)) &&
      (!inOwner || (server.owner_name ?? "").toLowerCase().includes(inOwner));
  }

  #compare() {
    const descending = this.#state.sort.startsWith("-");
    const name = this.#state.sort.replace(/^-/, "");
    const value = ({ server }) => (name === "health_status" ? VERDICT_ORDER[server.health_status] : server[name]);
    return (one, other) => {
      const [left, right] = [value(one), value(other)];
      if (left === right) {
        return one.server.model_name < other.server.model_name ? -1 : 1;
      }
      if (left === null || right === null) {
        return left === null ? 1 : -1; // What is not known stands last, whichever way.
      }
      return (left < right ? -1 : 1) * (descending ? -1 : 1);
    };
  }

  #show() {
    this.#showSort();
    this.#order = [...this.#rows.values()].filter(this.#wanted()).sort(this.#compare());
    const visible = this.#order.slice(0, this.#shown);
    this.#place(visible);
    const [total, matching] = [this.#rows.size, this.#order.length];
    setText(find("#matches"), matching === total ? plural(total, "server") : `${count(matching)} of ${plural(total, "server")}`);
    setHidden(find("#no-match"), matching > 0 || total === 0);
    setHidden(this.#table, matching === 0);
    const more = find("#more");
    setText(more, `Showing ${count(visible.length)} of ${count(matching)}; scroll for more`);
    setHidden(more, visible.length === matching);
  }

  #place(visible) {
    const focused = document.activeElement;
    const wanted = new Set();
    let before = find("thead", this.#table);
    for (const entry of visible) {
      entry.row ??= this.#newRow(entry.server);
      const { element } = entry.row;
      wanted.add(element);
      if (before.nextElementSibling !== element) {
        before.after(element);
      }
      before = element;
    }
    while (before.nextElementSibling !== null) {
      before.nextElementSibling.remove();
    }
    if (focused !== document.activeElement && wanted.has(focused.closest?.("tbody"))) {
      focused.focus({ preventScroll: true }); // Moving an element takes the focus from it.
    }
  }

  #newRow(server) {
    const row = new Row(server, ({ id, open }) => {
      if (open) {
        this.#state.open.add(id);
      } else {
        this.#state.open.delete(id);
      }
      this.#writeAddress();
    });
    if (this.#state.open.has(server.registration_id)) {
      row.setOpen(true);
    }
    this.#sight.observe(row.element);
    return row;
  }
}
