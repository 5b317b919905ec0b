// Usage in sums, for the pages that show it: the query of a report, its days without gaps, its chart with words.

import { usageChart } from "./chart.js";
import { compact, count, plural, short } from "./format.js";
import { build, find, setAttribute, setHidden } from "./dom.js";

const DAY_MS = 86_400_000;

export const tokensOf = (row) => row.prompt_tokens + row.completion_tokens;
export const failedOf = (row) => row.failed + row.rejected;

/** The day, in UTC, that many days before today. */
export function daysAgo(days) {
  return new Date(Date.now() - days * DAY_MS).toISOString().slice(0, 10);
}

/** The sums of each day from `since` (else the first that has any) until today; days without requests as well. */
export function withoutGaps(rows, since) {
  const known = new Map(rows.map((row) => [row.day, row]));
  const first = Date.parse(since ?? rows[0]?.day ?? daysAgo(0));
  const days = [];
  for (let moment = first; moment <= Date.now(); moment += DAY_MS) {
    const day = new Date(moment).toISOString().slice(0, 10);
    days.push(known.get(day) ?? { day, requests: 0, prompt_tokens: 0, completion_tokens: 0 });
  }
  return days;
}

/** The chart in #chart, its words in #legend, and #no-usage where there is nothing to draw. */
export class DaysChart {
  #place = find("#chart");
  #chart = null;

  show(days, totals) {
    setHidden(this.#place, totals.requests === 0);
    setHidden(find("#no-usage"), totals.requests > 0);
    setHidden(find("#legend"), totals.requests === 0);
    if (totals.requests === 0) {
      return;
    }
    const words = [
      ["prompts", `${compact(totals.prompt_tokens)} tokens in prompts`],
      ["answers", `${compact(totals.completion_tokens)} in answers`],
      ["line", plural(totals.requests, "request")],
    ];
    find("#legend").replaceChildren(...words.map(([kind, text]) => build("span", { class: "key", dataset: { kind } }, text)));
    setAttribute(this.#place, "role", "img");
    setAttribute(this.#place, "aria-label", `By day: ${words.map(([, text]) => text).join(", ")}`);
    this.#chart ??= usageChart(this.#place);
    this.#chart.show([days.map(({ day }) => Date.parse(day) / 1000), days.map(tokensOf), days.map((row) => row.prompt_tokens), days.map((row) => row.requests)]);
  }
}

export function failedText(totals) {
  const failed = failedOf(totals);
  return failed ? `${count(failed)} failed` : "none failed";
}

/** A share of a whole as a bar; the number stands beside it. */
export function shareBar(part, whole) {
  const bar = build("span", { class: "share-bar", title: whole ? `${Math.round((100 * part) / whole)} % of ${short(whole)}` : null });
  bar.style.setProperty("--share", whole ? String(part / whole) : "0");
  return bar;
}
