// One server: what is known of it, its probes, and what an admin may do with it.

import { call } from "./api.js";
import { probeChart } from "./chart.js";
import { build, copyButton, find, setHidden, setText, whileBusy } from "./dom.js";
import { count, exactTime, milliseconds, NOTHING, showTime } from "./format.js";
import { startFrame } from "./frame.js";
import { live } from "./live.js";
import { FIELDS, LISTS, ServerForm, SWITCHES } from "./server_form.js";
import { greeting } from "./snippets.js";
import { storyPath } from "./stories.js";
import { snippetTabs } from "./tabs.js";
import { toast, toastError } from "./toasts.js";
import { availabilityText, availabilityTitle, showVerdict, verdictChip } from "./verdicts.js";

startFrame();

const id = location.pathname.split("/").at(-1);
const path = `/admin/servers/${id}`;
const chip = verdictChip("unknown");
const form = new ServerForm(find("#edit-form"), { onInput: () => markChanges(), registrationId: id });
let server = null;
let before = {}; // The fields as they were when editing began: what others change meanwhile stays theirs.
let changesMade = 0;
let chart = null;
let snippet = null;

// -- showing

function fact(name, value) {
  return build("div", {}, build("dt", {}, name), build("dd", {}, ...[value].flat()));
}

function moment(iso) {
  const element = build("time", { dataset: { ago: "" } });
  showTime(element, iso);
  return element;
}

function show(record) {
  server = { ...server, ...record };
  setHidden(find("#server"), false);
  setHidden(find("#missing"), true);
  setHidden(find("#loading"), true);
  document.title = `${server.model_name} · Multiverse`;
  setText(find("#model"), server.model_name);
  showVerdict(chip, server.health_status);
  setText(find("#availability"), availabilityText(server));
  setText(find("#reason"), server.reason ?? (availabilityText(server) ? availabilityTitle(server) : ""));
  setText(find("#pause"), server.paused ? "Lend again" : "Pause");
  setText(find("#drain"), server.availability === "draining" ? "Resume" : "Drain");
  showFacts();
  snippet ??= startSnippet();
  snippet.refresh();
}

function startSnippet() {
  const tabs = snippetTabs(() => greeting(server.model_name), "Code that calls this model");
  find("#snippet").append(tabs.element);
  return tabs;
}

function showFacts() {
  const shown = JSON.stringify({ ...server, recent_probes: null });
  const place = find("#facts");
  if (place.dataset.shown === shown || place.contains(document.activeElement)) {
    return; // Whoever is about to copy the address keeps the focus.
  }
  place.dataset.shown = shown;
  const slots = server.slots ? `${server.in_flight} of ${server.slots}` : count(server.in_flight);
  place.replaceChildren(
    fact("Address", [build("code", {}, server.endpoint_url), copyButton(() => server.endpoint_url, "Copy URL")]),
    fact("Served name", server.served_model_name ?? "the same"),
    fact("Owner", [server.owner_name, server.owner_email].filter(Boolean).join(", ") || NOTHING),
    fact("In flight", slots),
    fact("Response time", milliseconds(server.response_time_ms)),
    fact("Failures in a row", count(server.consecutive_failures)),
    fact("Last probe", moment(server.last_checked_at)),
    fact("Last good request", moment(server.last_successful_request_at)),
    fact("Context length", server.context_length ? count(server.context_length) : NOTHING),
    fact("Server's key", server.has_api_key ? "set" : "none"),
    fact("Lent to", lentTo()),
    fact("Quiet hours", server.quiet_hours ? `${server.quiet_hours} (${server.time_zone})` : NOTHING),
    fact("Tokens today", server.daily_token_cap ? `${count(server.tokens_today)} of ${count(server.daily_token_cap)}` : count(server.tokens_today)),
    fact("Reserved slot", server.reserve_slot ? "one" : "none"),
    fact("Tags", server.tags.join(", ") || NOTHING),
    fact("Registered", moment(server.created_at)),
    fact("Changed", moment(server.updated_at)),
    fact("Description", server.description ?? NOTHING),
    fact("Registration id", [build("code", {}, server.registration_id), copyButton(() => server.registration_id)]),
  );
}

function lentTo() {
  if (server.offered_to === "friends") {
    return `friends: ${server.friends.join(", ") || "nobody"}`;
  }
  return server.offered_to === "me" ? "nobody else" : "the class";
}

function showProbes({ recent_probes: probes, uptime_percent: uptime }) {
  const oldestFirst = [...probes].reverse();
  setHidden(find("#no-probes"), probes.length > 0);
  setHidden(find("#chart"), probes.length === 0);
  const one = probes[0]?.ok ? "the only one so far was good" : "the only one so far failed";
  setText(find("#uptime"), uptime === null ? "" : probes.length === 1 ? one : `${uptime} % of the last ${probes.length} were good`);
  find("#timeline").replaceChildren(
    ...oldestFirst.map((probe) => {
      const said = `${exactTime(probe.checked_at)}: ${probe.ok ? `good, ${milliseconds(probe.response_time_ms)}` : probe.reason}`;
      return build("li", { dataset: { ok: probe.ok }, title: said }, build("span", { class: "away" }, said));
    }),
  );
  const times = oldestFirst.map((probe) => probe.response_time_ms);
  const place = find("#chart");
  place.setAttribute("role", "img");
  const known = times.filter((time) => time !== null);
  place.setAttribute("aria-label", known.length ? `Response times of the probes, between ${milliseconds(Math.min(...known))} and ${milliseconds(Math.max(...known))}` : "No response times yet");
  if (probes.length) {
    chart ??= probeChart(place);
    chart.show([oldestFirst.map((probe) => Date.parse(probe.checked_at) / 1000), oldestFirst.map((probe) => (probe.ok ? probe.response_time_ms : null))]);
  }
}

function showFailures({ recent_probes: probes, recent_failures: requests }) {
  const rows = [
    ...probes.filter((probe) => !probe.ok).map((probe) => [probe.checked_at, "probe", probe.reason]),
    ...requests.map((request) => {
      const story = build("a", { href: storyPath(request.request_id) }, request.request_id);
      const why = build("span", {}, `answered with ${request.status} after ${milliseconds(request.total_ms)} (`, story, ")");
      return [request.started_at, `request, ${request.route}`, why];
    }),
  ];
  rows.sort(([one], [other]) => (one < other ? 1 : -1));
  setHidden(find("#no-failures"), rows.length > 0);
  setHidden(find("#failures-table"), rows.length === 0);
  find("#failures").replaceChildren(
    ...rows.slice(0, 20).map(([when, what, why]) => build("tr", {}, build("td", {}, moment(when)), build("td", {}, what), build("td", {}, why))),
  );
}

// -- loading

async function load() {
  try {
    const turn = changesMade;
    const record = await call("GET", `${path}?limit=100`);
    if (turn !== changesMade) {
      return; // Asked before something was done here: older than what is shown.
    }
    show(record);
    showProbes(record);
    showFailures(record);
  } catch (error) {
    if (error.status === 404) {
      showMissing("There is no such server any more. It may have been deregistered.");
    } else {
      toastError(error);
    }
  }
}

function showMissing(text) {
  setText(find("#missing"), text);
  setHidden(find("#missing"), false);
  setHidden(find("#loading"), true);
  setHidden(find("#server"), true);
}

live.on("servers", ({ servers, changed, removed, all }) => {
  if (removed.has(id) || (all && !servers.has(id) && server !== null)) {
    showMissing("This server has been deregistered.");
  } else if (changed.has(id)) {
    const probed = servers.get(id).last_checked_at !== server?.last_checked_at;
    if (server === null || probed || all) {
      load();
    } else {
      show(servers.get(id));
    }
  }
});

// -- probing, draining

function act(selector, work) {
  const button = find(selector);
  button.addEventListener("click", () => whileBusy(button, () => work().catch(toastError)));
}

act("#probe", async () => {
  const { probe, ...record } = await call("POST", `${path}/probe`);
  show(record);
  toast(probe.ok ? `The server answers, in ${milliseconds(probe.response_time_ms)}.` : `The probe failed: ${probe.reason}`, probe.ok ? "success" : "warning");
  await load();
});

act("#drain", async () => {
  const draining = server.availability === "draining";
  const record = await call("POST", `${path}/${draining ? "resume" : "drain"}`);
  changesMade += 1;
  show(record);
  toast(draining ? "The server takes requests again." : "No new request goes to this server; those under way finish.");
});

act("#pause", async () => {
  const { paused } = server;
  const record = await (paused ? call("PATCH", path, { paused: false }) : call("POST", `${path}/pause`));
  changesMade += 1;
  show(record);
  toast(paused ? "The server is lent again, on its terms." : "The server is lent to nobody for now; what is under way finishes.");
});

// -- editing

function shownValue(name) {
  if (LISTS.has(name)) {
    return server[name].join(", ");
  }
  if (SWITCHES.has(name)) {
    return server[name] ? "yes" : "no";
  }
  return name === "api_key" ? "" : String(server[name] ?? "");
}

function changes() {
  return Object.keys(FIELDS).filter((name) => JSON.stringify(form.value(name)) !== JSON.stringify(before[name]));
}

function valueNow(name) {
  return name === "api_key" ? null : (server[name] ?? null);
}

function markChanges() {
  const changed = new Set(changes());
  for (const name of Object.keys(FIELDS)) {
    const label = find(`label[for="${name}"]`, form.form);
    const mark = label.querySelector(".changed");
    if (changed.has(name) && mark === null) {
      label.append(build("span", { class: "changed" }, "changed"));
    } else if (!changed.has(name)) {
      mark?.remove();
    }
  }
  setText(find("#changed-count"), changed.size ? `${changed.size} changed` : "nothing changed yet");
}

function closeEdit() {
  setHidden(find("#edit-card"), true);
  find("#edit").focus();
}

find("#edit").addEventListener("click", () => {
  for (const name of Object.keys(FIELDS)) {
    form.input(name).value = shownValue(name);
  }
  before = Object.fromEntries(Object.keys(FIELDS).map((name) => [name, valueNow(name)]));
  form.clearComplaints();
  setText(find("#api_key-help"), server.has_api_key ? "One is set. Leave this empty to keep it." : "Only if the server asks for one.");
  markChanges();
  setHidden(find("#edit-card"), false);
  form.input("endpoint_url").focus();
});
find("#cancel-edit").addEventListener("click", closeEdit);

form.form.addEventListener("submit", (event) => {
  event.preventDefault();
  form.clearFailure();
  if (!form.judgeAll()) {
    return;
  }
  const changed = changes();
  if (changed.length === 0) {
    closeEdit();
    return;
  }
  const then = (name) => (name === "api_key" ? "a new key" : form.text(name) || "nothing");
  find("#changes").replaceChildren(
    ...changed.map((name) => build("tr", {}, build("th", { scope: "row" }, FIELDS[name]), build("td", {}, shownValue(name) || (name === "api_key" && server.has_api_key ? "the old key" : "nothing")), build("td", {}, then(name)))),
  );
  find("#confirm-changes").showModal();
});

find("#confirm-cancel").addEventListener("click", () => find("#confirm-changes").close());
find("#confirm-save").addEventListener("click", () =>
  whileBusy(find("#confirm-save"), async () => {
    const body = Object.fromEntries(changes().map((name) => [name, form.value(name)]));
    try {
      const record = await call("PUT", `/admin/register/${id}`, body);
      changesMade += 1;
      show(record);
      find("#confirm-changes").close();
      closeEdit();
      toast("The changes are saved.");
      await load();
    } catch (error) {
      find("#confirm-changes").close();
      form.showFailure(error);
    }
  }),
);

// -- deleting

const typedName = find("#typed-name");

find("#delete").addEventListener("click", () => {
  typedName.value = "";
  find("#confirm-deregister").disabled = true;
  setText(find("#name-to-type"), server.model_name);
  find("#confirm-delete").showModal();
  typedName.focus();
});
find("#cancel-delete").addEventListener("click", () => find("#confirm-delete").close());
typedName.addEventListener("input", () => {
  find("#confirm-deregister").disabled = typedName.value.trim() !== server.model_name;
});
find("#delete-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (typedName.value.trim() !== server.model_name) {
    return;
  }
  whileBusy(find("#confirm-deregister"), async () => {
    try {
      await call("DELETE", `/admin/register/${id}`);
      location.assign("/");
    } catch (error) {
      find("#confirm-delete").close();
      toastError(error);
    }
  });
});

find("#verdict-place").append(chip);
load();
