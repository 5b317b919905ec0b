// Who used what: by day, model, person and server for the admin, one's own for everybody else. Choices stay in the URL.

import { call, isAdmin } from "./api.js";
import { build, find, setHidden, setText } from "./dom.js";
import { compact, count, plural } from "./format.js";
import { startFrame } from "./frame.js";
import { toastError } from "./toasts.js";
import { daysAgo, DaysChart, failedOf, failedText, shareBar, tokensOf, withoutGaps } from "./usage_report.js";

const PATH = isAdmin ? "/admin/usage" : "/v1/usage";
const GROUPS = isAdmin ? ["model", "key", "server"] : ["model"];
const FINEST = isAdmin ? "day,key,model,server" : "day,model";
const ROWS_AT_FIRST = 10;
const COUNTED = {
  model: ["model_name", "model", "models"],
  key: ["key_id", "person", "people"],
  server: ["registration_id", "server", "servers"],
};

startFrame();

const form = find("#filters");
const chart = new DaysChart();
const servers = new Map();
let asked = 0;

// -- what is asked

function readAddress() {
  const known = new URLSearchParams(location.search);
  const { days, model, key } = form.elements;
  days.value = known.get("days") ?? "30";
  if (days.selectedIndex < 0) {
    days.value = "30";
  }
  for (const [field, name] of [[model, "model"], [key, "key"]]) {
    const wanted = known.get(name);
    if (field && wanted) {
      field.append(build("option", { value: wanted }, wanted));
      field.value = wanted;
    }
  }
}

function writeAddress() {
  const { days, model, key } = form.elements;
  const address = new URL(location.href);
  for (const [name, value, usual] of [["days", days.value, "30"], ["model", model.value, ""], ["key", key?.value ?? "", ""]]) {
    if (value === usual) {
      address.searchParams.delete(name);
    } else {
      address.searchParams.set(name, value);
    }
  }
  history.replaceState(null, "", address);
}

function since() {
  const { value } = form.elements.days;
  return value === "" ? null : daysAgo(Number(value) - 1);
}

function query(groupBy, more = {}) {
  const { model, key } = form.elements;
  const wanted = { group_by: groupBy, since: since(), model_name: model.value, key_id: key?.value, ...more };
  return `${PATH}?${new URLSearchParams(Object.entries(wanted).filter(([, value]) => value))}`;
}

// -- what is shown

function nameOf(group, row) {
  if (group === "model") {
    return row.model_name || "no model of ours";
  }
  if (group === "key") {
    return row.key_name || row.key_id;
  }
  return row.registration_id ? (servers.get(row.registration_id) ?? "a server that is gone") : "none: refused before one was asked";
}

function nameCell(group, row) {
  const name = nameOf(group, row);
  if (group === "server") {
    const known = servers.has(row.registration_id);
    return known ? build("a", { href: `/servers/${row.registration_id}` }, name) : build("span", { class: "muted", title: row.registration_id || null }, name);
  }
  const value = group === "model" ? row.model_name : row.key_id;
  if (!value) {
    return build("span", { class: "muted" }, name);
  }
  const button = build("button", { type: "button", class: "row-toggle plain", title: `Only ${name}` }, build("span", { class: "model-name" }, name));
  button.addEventListener("click", () => choose(group, value));
  return button;
}

function choose(group, value) {
  const field = form.elements[group];
  if (field === undefined) {
    return;
  }
  field.value = value;
  changed();
  find("#main").scrollIntoView({ block: "start" });
  field.focus({ preventScroll: true });
}

function showBreakdown(group, { rows, totals }) {
  const sorted = [...rows].sort((one, other) => tokensOf(other) - tokensOf(one) || other.requests - one.requests);
  const whole = tokensOf(totals);
  const cells = (row) => [count(row.requests), count(failedOf(row)), compact(row.prompt_tokens), compact(row.completion_tokens), compact(tokensOf(row))];
  const kinds = ["number", "number medium", "number medium", "number medium", "number"];
  const lines = sorted.map((row) =>
    build("tr", {}, build("td", { class: "model" }, nameCell(group, row)), ...cells(row).map((text, place) => build("td", { class: kinds[place] }, text)), build("td", { class: "share medium" }, shareBar(tokensOf(row), whole))),
  );
  find(`#${group}-rows`).replaceChildren(...lines.slice(0, ROWS_AT_FIRST));
  const [id, one, many] = COUNTED[group];
  setText(find(`#${group}-count`), plural(rows.filter((row) => row[id]).length, one, many));
  const more = find(`#${group}-more`);
  setHidden(more, lines.length <= ROWS_AT_FIRST);
  setText(more, `Show all ${count(lines.length)}`);
  more.onclick = () => {
    find(`#${group}-rows`).append(...lines.slice(ROWS_AT_FIRST));
    setHidden(more, true);
  };
}

/** The choices of a select, from all that was used in this time; what is chosen stays. */
function showChoices(field, choices) {
  const chosen = field.value;
  const names = new Map(choices.filter(([value]) => value));
  if (chosen && !names.has(chosen)) {
    names.set(chosen, field.selectedOptions[0].textContent);
  }
  field.replaceChildren(field.options[0], ...[...names].map(([value, text]) => build("option", { value }, text)));
  field.value = chosen;
}

function showTotals(totals) {
  setText(find("#requests"), compact(totals.requests));
  setText(find("#failed"), failedText(totals));
  setText(find("#tokens"), compact(tokensOf(totals)));
  setText(find("#estimated"), totals.estimated_tokens ? `${compact(totals.estimated_tokens)} of them estimated` : "as servers report them");
  setText(find("#prompts"), compact(totals.prompt_tokens));
  setText(find("#answers"), compact(totals.completion_tokens));
  find("#tiles").removeAttribute("aria-busy");
}

async function loadServers() {
  if (isAdmin) {
    for (const server of (await call("GET", "/admin/servers")).servers) {
      servers.set(server.registration_id, `${server.owner_name ?? new URL(server.endpoint_url).host}: ${server.model_name}`);
    }
  }
}

async function load() {
  const turn = (asked += 1);
  find("#csv").href = query(FINEST, { format: "csv" });
  try {
    const [byDay, byModelOfAll, byKeyOfAll, ...breakdowns] = await Promise.all([
      call("GET", query("day")),
      call("GET", query("model", { model_name: "", key_id: "" })),
      isAdmin ? call("GET", query("key", { model_name: "", key_id: "" })) : null,
      ...GROUPS.map((group) => call("GET", query(group))),
    ]);
    if (turn !== asked) {
      return; // Something else was chosen meanwhile.
    }
    showTotals(byDay.totals);
    chart.show(withoutGaps(byDay.rows, since()), byDay.totals);
    showChoices(form.elements.model, byModelOfAll.rows.map((row) => [row.model_name, row.model_name]));
    if (byKeyOfAll) {
      showChoices(form.elements.key, byKeyOfAll.rows.map((row) => [row.key_id, row.key_name || row.key_id]));
    }
    GROUPS.forEach((group, place) => showBreakdown(group, breakdowns[place]));
    setHidden(find("#breakdowns"), byDay.totals.requests === 0);
  } catch (error) {
    toastError(error);
  }
}

function changed() {
  writeAddress();
  load();
}

readAddress();
form.addEventListener("change", changed);
form.addEventListener("submit", (event) => event.preventDefault());
loadServers().catch(toastError).finally(load);
