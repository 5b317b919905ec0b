// What the pages that tell of requests share: outcomes in words, and a bar of where the time went.

import { build } from "./dom.js";
import { milliseconds } from "./format.js";

export const OUTCOMES = { ok: "answered", failed: "failed", rejected: "refused", client_closed: "client left" };

const PHASES = {
  gateway_ms: "gateway",
  queue_ms: "queue",
  failed_ms: "failed servers",
  server_ms: "waiting for the server",
  answer_ms: "the answer",
};

export function storyPath(requestId) {
  // The id's characters need no escaping in a path, and a slash in it is meant.
  return `/requests/${requestId}`;
}

export function outcomeChip(story) {
  const verdict = story.outcome === "ok" ? "healthy" : story.outcome === "failed" ? "unhealthy" : "unknown";
  const title = story.code ? `${story.status} ${story.code}` : String(story.status);
  return build("span", { class: "verdict", dataset: { verdict }, title }, OUTCOMES[story.outcome] ?? story.outcome);
}

/** A bar whose parts are as long as the phases took; in words for those who do not see it. */
export function phasesBar(time) {
  const spent = Object.entries(PHASES).filter(([name]) => time[name] > 0);
  const words = spent.map(([name, title]) => `${title} ${milliseconds(time[name])}`).join(", ");
  const bar = build("span", { class: "phases", role: "img", "aria-label": words || "no time at all", title: words });
  for (const [name] of spent) {
    const part = build("span", { dataset: { phase: name } });
    // Set by script: the pages' policy forbids style attributes. Shares that add up to less than 1 would leave a gap.
    part.style.flexGrow = String(time[name] * 1000);
    bar.append(part);
  }
  return bar;
}

/** What the colours mean; with the times of one request, if given. */
export function phasesLegend(time = null) {
  return Object.entries(PHASES)
    .filter(([name]) => time === null || time[name] > 0)
    .map(([name, title]) => build("span", { class: "key", dataset: { phase: name } }, time === null ? title : `${title} ${milliseconds(time[name])}`));
}

/** `message` with the path of the request's story in it as a link; without one, the id is one. */
export function withStoryLink(message, requestId) {
  if (!requestId) {
    return [message];
  }
  const path = storyPath(requestId);
  const [before, after] = message.split(path);
  return after === undefined ? [`${message} (request ${requestId})`] : [before, build("a", { href: path }, path), after];
}
