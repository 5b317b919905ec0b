// The latest requests: by time, model, key and outcome, slowest first if one likes; each leads to its story.

import { call, isAdmin } from "./api.js";
import { build, find, setHidden, setText, whileBusy } from "./dom.js";
import { exactTime, milliseconds, plural, shortTime } from "./format.js";
import { startFrame } from "./frame.js";
import { outcomeChip, phasesBar, phasesLegend, storyPath } from "./stories.js";
import { toastError } from "./toasts.js";

const TYPING_MS = 250;
const AROUND_MS = 5 * 60_000;
const DAY_MS = 86_400_000;
const REQUEST_ID = /^[A-Za-z0-9._+/=-]{1,200}$/;

startFrame();

// -- one request

find("#by-id").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = new FormData(event.target).get("request_id").trim();
  // People paste the whole error message, too.
  const requestId = given.match(/\/requests\/([A-Za-z0-9._+/=-]+)/)?.[1] ?? given;
  const place = find("#by-id-error");
  if (REQUEST_ID.test(requestId)) {
    location.assign(storyPath(requestId));
    return;
  }
  setText(place, "A request id has up to 200 letters, digits and . _ + / = - in it. It is the answer's X-Request-ID.");
  setHidden(place, false);
});

// -- all of them

/** The moments five minutes before and after a time of day: today's, or yesterday's when today's is still to come. */
function around(timeOfDay) {
  const [hours, minutes] = timeOfDay.split(":").map(Number);
  const moment = new Date();
  moment.setHours(hours, minutes, 0, 0);
  const past = moment.getTime() - AROUND_MS > Date.now() ? moment.getTime() - DAY_MS : moment.getTime();
  return { since: new Date(past - AROUND_MS).toISOString(), until: new Date(past + AROUND_MS + 60_000).toISOString() };
}

function row(story) {
  const time = build("time", { datetime: story.started_at, title: exactTime(story.started_at) }, shortTime(story.started_at));
  const when = build("a", { href: storyPath(story.request_id) }, time);
  return build(
    "tr",
    {},
    build("td", {}, when),
    build("td", { class: "model" }, story.model),
    isAdmin ? build("td", { class: "person medium" }, story.key_name) : null,
    build("td", {}, outcomeChip(story)),
    build("td", { class: "number" }, milliseconds(story.total_ms)),
    build("td", { class: "number medium" }, milliseconds(story.first_token_ms)),
    build("td", { class: "medium" }, phasesBar(story.time)),
  );
}

function startList() {
  const form = find("#filters");
  let typing;
  let asked = 0;

  const chosen = () => Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value));

  function suggest(selector, values) {
    document.querySelector(selector)?.replaceChildren(...[...new Set(values)].sort().map((value) => build("option", { value })));
  }

  async function load() {
    const { around: timeOfDay, ...wanted } = chosen();
    const query = new URLSearchParams({ ...wanted, ...(timeOfDay ? around(timeOfDay) : {}) });
    const mine = (asked += 1);
    try {
      const { requests, total } = await call("GET", `/v1/requests?${query}`);
      if (mine !== asked) {
        return; // Somebody has typed on meanwhile.
      }
      find("#requests").replaceChildren(...requests.map(row));
      suggest("#models", requests.map((story) => story.model));
      suggest("#keys", requests.map((story) => story.key_name));
      setText(find("#matches"), requests.length < total ? `${requests.length} of ${plural(total, "request")}` : plural(total, "request"));
      setHidden(find("#requests-table"), requests.length === 0);
      setHidden(find("#no-requests"), requests.length > 0);
    } catch (error) {
      if (error.status !== 0) {
        toastError(error);
      }
    } finally {
      find("#requests-card").removeAttribute("aria-busy");
    }
  }

  form.addEventListener("input", () => {
    const query = new URLSearchParams(chosen()).toString();
    history.replaceState(null, "", query ? `?${query}` : location.pathname);
    clearTimeout(typing);
    typing = setTimeout(load, TYPING_MS);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  const again = find("#again");
  again.addEventListener("click", () => whileBusy(again, load));
  for (const [name, value] of new URLSearchParams(location.search)) {
    const field = form.elements.namedItem(name);
    if (field) {
      field.value = value;
    }
  }
  find("#legend").replaceChildren(...phasesLegend());
  load();
}

if (document.querySelector("#filters") !== null) {
  startList();
}
