// The settings the gateway runs with, and what it is made of.

import { call } from "./api.js";
import { build, find, setHidden, setText } from "./dom.js";
import { bytes, count, duration, plural } from "./format.js";
import { startFrame } from "./frame.js";
import { toastError } from "./toasts.js";

startFrame();

const rows = [];

function fact(name, value) {
  return build("div", {}, build("dt", {}, name), build("dd", {}, value));
}

function row(setting) {
  const changed = !setting.secret && setting.default !== null && setting.value !== setting.default && !(setting.default === "" && setting.value === "none");
  const value = build("td", {}, build("code", {}, setting.value));
  if (changed) {
    value.append(" ", build("small", { class: "muted" }, "changed"));
  }
  const element = build(
    "tr",
    {},
    build("th", { scope: "row" }, build("code", {}, setting.variable)),
    value,
    build("td", { class: "medium" }, setting.default === null ? "required" : setting.default === "" ? "empty" : build("code", {}, setting.default)),
    build("td", { class: "wide" }, setting.meaning),
  );
  rows.push({ element, text: `${setting.variable} ${setting.meaning}`.toLowerCase() });
  return { element, changed };
}

async function load() {
  const told = await call("GET", "/admin/settings");
  const { versions, database } = told;
  find("#state").replaceChildren(
    fact("Version", versions.multiverse),
    fact("Up for", duration(told.uptime_seconds)),
    fact("Python · Tornado", `${versions.python} · ${versions.tornado}`),
    fact("Event loop", told.event_loop),
    fact("Database", bytes(database.size_bytes)),
    fact("Stored", `${plural(database.servers, "server")}, ${plural(database.probes, "probe")}, ${plural(database.usage, "request")}`),
    fact("Signed in", plural(told.sessions, "session")),
  );
  const shown = told.settings.map(row);
  find("#settings").replaceChildren(...shown.map(({ element }) => element));
  setText(find("#changed-settings"), `${count(shown.filter(({ changed }) => changed).length)} differ from the default`);
}

find("#search").addEventListener("input", (event) => {
  const wanted = event.target.value.trim().toLowerCase();
  for (const { element, text } of rows) {
    setHidden(element, !text.includes(wanted));
  }
});
find("#search-form").addEventListener("submit", (event) => event.preventDefault());
load().catch(toastError).finally(() => document.querySelectorAll(".card").forEach((card) => card.removeAttribute("aria-busy")));
