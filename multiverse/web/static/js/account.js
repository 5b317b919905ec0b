// One's own key: what it may do, what it has used and given, one's own servers, and whether one wants to be thanked.

import { call, isAdmin, mayOwnServers } from "./api.js";
import { build, find, setHidden, setText } from "./dom.js";
import { compact, count, day, NOTHING, showTime } from "./format.js";
import { startFrame } from "./frame.js";
import { live } from "./live.js";
import { greeting } from "./snippets.js";
import { snippetTabs } from "./tabs.js";
import { toast, toastError } from "./toasts.js";
import { daysAgo, DaysChart, failedText, withoutGaps } from "./usage_report.js";
import { availabilityText, availabilityTitle, verdictChip } from "./verdicts.js";

const SHOWN_DAYS = 30;
const ROLES = { admin: "admin: may do everything", student: "student: asks models, lends servers", reader: "reader: asks models" };
const LIMITS = [
  ["requests_per_minute", "requests a minute"],
  ["tokens_per_day", "tokens a day"],
  ["requests_at_once", "requests at once"],
];

startFrame();

// -- the key

function fact(name, value) {
  return build("div", {}, build("dt", {}, name), build("dd", {}, value));
}

function showAccount(account) {
  const limits = LIMITS.filter(([name]) => account.limits[name] !== null).map(([name, words]) => `${count(account.limits[name])} ${words}`);
  find("#facts").replaceChildren(
    fact("Name", account.name),
    fact("Role", ROLES[account.role] ?? account.role),
    fact("E-mail", account.email ?? NOTHING),
    fact("Ends with", account.hint ? build("code", {}, `…${account.hint}`) : "set in the gateway's settings"),
    fact("Valid until", account.expires_at ? day(account.expires_at) : "no end"),
    fact("Models", account.models ? account.models.join(", ") : "all"),
    fact("Limits", limits.join(", ") || "none"),
  );
  setText(find("#tokens-today"), compact(account.tokens_today));
  const most = account.limits.tokens_per_day;
  setText(find("#tokens-left"), most === null ? "no daily limit" : `of ${compact(most)} a day`);
  setHidden(find("#thanks-card"), account.on_thanks_board === null);
  find("#on_thanks_board").checked = account.on_thanks_board === true;
}

find("#on_thanks_board").addEventListener("change", async ({ target }) => {
  try {
    showAccount(await call("PATCH", "/v1/account", { on_thanks_board: target.checked }));
    toast(target.checked ? "The thanks board shows your name." : "The thanks board does not show your name any more.");
  } catch (error) {
    target.checked = !target.checked;
    toastError(error);
  }
});

// -- usage

async function showUsage() {
  const since = daysAgo(SHOWN_DAYS - 1);
  const [recent, whole] = await Promise.all([call("GET", `/v1/usage?since=${since}`), call("GET", "/v1/usage?group_by=model")]);
  setText(find("#requests"), compact(whole.totals.requests));
  setText(find("#failed"), failedText(whole.totals));
  setText(find("#tokens-taken"), compact(whole.tokens_taken));
  setText(find("#tokens-given"), compact(whole.tokens_given));
  new DaysChart().show(withoutGaps(recent.rows, since), recent.totals);
  find("#tiles").removeAttribute("aria-busy");
}

// -- one's own servers

function line(server) {
  const probed = build("time", { dataset: { ago: "" } });
  showTime(probed, server.last_checked_at);
  const said = server.reason ?? (availabilityText(server) ? availabilityTitle(server) : null);
  return build(
    "li",
    {},
    build("a", { class: "model-name", href: `/servers/${server.registration_id}` }, server.model_name),
    verdictChip(server.health_status),
    build("span", { class: "muted" }, `${count(server.in_flight)} in flight · probed `, probed),
    said === null ? null : build("span", { class: "whole muted" }, said),
  );
}

function showServers(servers) {
  const list = find("#servers");
  const shown = JSON.stringify(servers);
  if (list.dataset.shown !== shown && !list.contains(document.activeElement)) {
    list.dataset.shown = shown;
    list.replaceChildren(...servers.map(line));
  }
  setHidden(find("#no-servers"), servers.length > 0);
  find("#servers-card").removeAttribute("aria-busy");
}

async function showSnippet() {
  const { data } = await call("GET", "/v1/models");
  find("#snippet").append(snippetTabs(() => greeting(data[0]?.id ?? "NAME-OF-A-MODEL"), "Code that calls a model", "YOUR-KEY").element);
}

if (mayOwnServers && !isAdmin) {
  live.on("servers", ({ servers }) => showServers([...servers.values()]));
}
call("GET", "/v1/account")
  .then(showAccount)
  .catch(toastError)
  .finally(() => find("#key-card").removeAttribute("aria-busy"));
showUsage().catch(toastError);
showSnippet().catch(toastError);
