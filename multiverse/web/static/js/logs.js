// The latest log records: filtered by the gateway, renewed whenever the event stream tells of a new one.

import { call } from "./api.js";
import { build, find, setHidden, setText } from "./dom.js";
import { exactTime } from "./format.js";
import { startFrame } from "./frame.js";
import { live } from "./live.js";
import { storyPath } from "./stories.js";
import { toastError } from "./toasts.js";

const MOST_SHOWN = 500;
const TYPING_MS = 250;

startFrame();

const form = find("#filters");
const list = find("#records");
const pauseButton = find("#pause");
let lastId = 0;
let paused = false;
let missed = null;
let asking = false;

function filters() {
  const wanted = new URLSearchParams();
  for (const [name, value] of new FormData(form)) {
    if (value.trim()) {
      wanted.set(name, value.trim());
    }
  }
  return wanted;
}

function pairs(fields) {
  return Object.entries(fields)
    .filter(([, value]) => value !== null)
    .flatMap(([name, value], place) => {
      const shown = typeof value === "object" ? JSON.stringify(value) : String(value);
      const told = name === "request_id" ? build("a", { href: storyPath(shown) }, shown) : shown;
      return [`${place ? "  " : ""}${name}=`, told];
    });
}

function line(record) {
  const time = build("time", { datetime: record.timestamp, title: exactTime(record.timestamp) }, record.timestamp.slice(11, 23));
  return build(
    "li",
    { dataset: { level: record.level } },
    time,
    build("span", { class: "level" }, record.level),
    build(
      "div",
      {},
      build("span", { class: "message" }, record.message, " "),
      build("span", { class: "origin" }, record.component),
      build("span", { class: "pairs" }, ...pairs(record.fields)),
      record.exception ? build("pre", { tabindex: "0" }, record.exception) : null,
    ),
  );
}

/** Everything anew, or only what is newer than what is shown. */
async function load({ anew }) {
  if (asking) {
    missed = { anew: anew || missed?.anew === true };
    return;
  }
  asking = true;
  const wanted = filters();
  if (!anew) {
    wanted.set("after", String(lastId));
  }
  try {
    const { records, last_id: newest } = await call("GET", `/admin/logs?${wanted}`);
    lastId = newest;
    if (anew) {
      list.replaceChildren(...records.map(line));
    } else {
      list.prepend(...records.map(line));
      while (list.children.length > MOST_SHOWN) {
        list.lastElementChild.remove();
      }
    }
    list.removeAttribute("aria-busy");
    setHidden(find("#no-records"), list.children.length > 0);
  } catch (error) {
    if (error.status !== 0) {
      toastError(error);
    }
  } finally {
    asking = false;
  }
  const next = missed;
  missed = null;
  if (next && (next.anew || !paused)) {
    load(next);
  }
}

function showTail() {
  setText(find("#tail-state"), paused ? "paused" : "live tail");
  setText(pauseButton, paused ? "Go on" : "Pause");
  pauseButton.setAttribute("aria-pressed", String(paused));
}

let typing;

form.addEventListener("input", () => {
  const query = filters().toString();
  history.replaceState(null, "", query ? `?${query}` : location.pathname);
  clearTimeout(typing);
  typing = setTimeout(() => load({ anew: true }), TYPING_MS);
});
form.addEventListener("submit", (event) => event.preventDefault());
pauseButton.addEventListener("click", () => {
  paused = !paused;
  showTail();
  if (!paused) {
    load({ anew: false });
  }
});
live.on("logs", (newest) => {
  if (!paused && newest !== lastId) {
    load({ anew: false });
  }
});

for (const [name, value] of new URLSearchParams(location.search)) {
  const field = form.elements.namedItem(name);
  if (field) {
    field.value = value;
  }
}
showTail();
load({ anew: true });
