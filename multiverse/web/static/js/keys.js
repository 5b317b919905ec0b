// Who has a key: listed, made, changed, revoked; rosters and claim codes are modules of their own.

import { call } from "./api.js";
import { startClaimCodes } from "./claim_codes.js";
import { build, find, setHidden, setText } from "./dom.js";
import { count, day, NOTHING, plural, short } from "./format.js";
import { startFrame } from "./frame.js";
import { KeyDialog } from "./key_dialog.js";
import { showMade } from "./made.js";
import { startRoster } from "./roster.js";
import { toastError } from "./toasts.js";

startFrame();

const filters = find("#filters");
const dialog = new KeyDialog({ onChange: put, onMade: (key) => {
  put(key);
  showMade([key]);
} });
const rows = new Map();

function limits(key) {
  const told = [
    [key.requests_per_minute, "a minute"],
    [key.tokens_per_day, "tokens a day"],
    [key.requests_at_once, "at once"],
  ];
  const words = told.filter(([value]) => value !== null).map(([value, what]) => `${value < 10_000 ? count(value) : short(value)} ${what}`);
  if (key.weight !== 1) {
    words.push(`weight ${key.weight}`);
  }
  return words.join(", ") || NOTHING;
}

function newRow(key) {
  const change = build("button", { type: "button", class: "quiet", "aria-label": `Change the key of ${key.name}` }, "Change");
  change.addEventListener("click", () => dialog.open(rows.get(key.key_id).key));
  return build(
    "tr",
    { dataset: { id: key.key_id, status: key.status } },
    build("td", { class: "model" }, build("span", { class: "model-name" }, key.name), " ", key.status === "active" ? null : build("span", { class: "status" }, key.status), key.email ? build("small", { class: "under muted" }, key.email) : null),
    build("td", {}, key.role),
    build("td", { class: "wide" }, key.models === null ? "all" : key.models.join(", ")),
    build("td", { class: "medium" }, limits(key)),
    build("td", { class: "medium" }, key.expires_at === null ? NOTHING : build("span", { title: key.expires_at }, day(key.expires_at))),
    build("td", { class: "medium" }, build("code", {}, `…${key.hint}`)),
    build("td", { class: "number" }, key.status === "revoked" ? null : change),
  );
}

/** Shows the key as it is now, where it stood or at the top. */
function put(key) {
  const known = rows.get(key.key_id);
  const element = newRow(key);
  if (known === undefined) {
    find("#keys").prepend(element);
  } else {
    known.element.replaceWith(element);
  }
  rows.set(key.key_id, { key, element, text: `${key.name} ${key.email ?? ""}`.toLowerCase() });
  filter();
}

function filter() {
  const { search, role, status } = Object.fromEntries(new FormData(filters));
  const wanted = search.trim().toLowerCase();
  let matching = 0;
  for (const { key, element, text } of rows.values()) {
    const matches = text.includes(wanted) && (!role || key.role === role) && (!status || key.status === status);
    matching += matches;
    setHidden(element, !matches);
  }
  setText(find("#matches"), matching === rows.size ? plural(rows.size, "key") : `${count(matching)} of ${plural(rows.size, "key")}`);
  setHidden(find("#keys-table"), matching === 0);
  setHidden(find("#no-keys"), matching > 0);
  setText(find("#no-keys"), rows.size ? "No key matches." : "Nobody has a key yet but the admin. Make a claim code for the class, import a roster, or make a single key.");
}

async function load() {
  try {
    const { keys } = await call("GET", "/admin/keys");
    rows.clear();
    const elements = keys.reverse().map((key) => {
      const element = newRow(key);
      rows.set(key.key_id, { key, element, text: `${key.name} ${key.email ?? ""}`.toLowerCase() });
      return element;
    });
    const focused = document.activeElement.closest("#keys tr")?.dataset.id;
    find("#keys").replaceChildren(...elements);
    rows.get(focused)?.element.querySelector("button")?.focus({ preventScroll: true });
    filter();
  } catch (error) {
    toastError(error);
  } finally {
    find("#keys-card").removeAttribute("aria-busy");
  }
}

filters.addEventListener("input", filter);
filters.addEventListener("submit", (event) => event.preventDefault());
find("#new-key").addEventListener("click", () => dialog.open(null));
startRoster((keys) => {
  keys.forEach(put);
  showMade(keys);
});
startClaimCodes({ onUse: load });
load();
