// A verdict by colour and by word; an availability with its reason.

import { build, setText } from "./dom.js";

const AVAILABILITY = {
  available: "takes requests",
  busy: "every slot is taken",
  ejected: "left alone after failed requests",
  loading: "is loading its model",
  draining: "drained: no new request goes there",
  paused: "paused by its owner",
  quiet: "in its quiet hours",
  capped: "has given its tokens of today",
  not_offered: "offered to others",
  reserved: "its only slot is reserved for its owner",
  unhealthy: "fails its probes",
  unknown: "not probed yet",
};

export function verdictChip(verdict) {
  const chip = build("span", { class: "verdict" });
  showVerdict(chip, verdict);
  return chip;
}

export function showVerdict(chip, verdict) {
  if (chip.dataset.verdict !== verdict) {
    chip.dataset.verdict = verdict;
    setText(chip, verdict);
  }
}

/** What else there is to say beside the verdict; empty when the verdict says it all. */
export function availabilityText(server) {
  const same = server.availability === server.health_status || (server.availability === "available" && server.health_status === "healthy");
  return same ? "" : server.availability.replace("_", " ");
}

export function availabilityTitle(server) {
  return AVAILABILITY[server.availability] ?? server.availability;
}
