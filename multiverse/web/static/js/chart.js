// The charts: uPlot with our colours. A chart has a text beside it that says the same in words.

import { milliseconds, short } from "./format.js";

const HEIGHT = 190;
const DAY_SECONDS = 86_400;
const SHORTEST_SECONDS = 60;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function axis(extra) {
  return {
    stroke: colour("--chart-text"),
    grid: { stroke: colour("--chart-grid"), width: 1 },
    ticks: { stroke: colour("--chart-grid"), width: 1, size: 4 },
    font: "12px system-ui, sans-serif",
    ...extra,
  };
}

/** A chart in `place` whose options come from `options()` anew whenever the colours change; `show(data)` draws. */
class Chart {
  #place;
  #options;
  #plot = null;
  #data = null;

  constructor(place, options) {
    this.#place = place;
    this.#options = options;
    new ResizeObserver(() => this.#resize()).observe(place);
    window.addEventListener("themechange", () => this.#rebuild());
  }

  show(data) {
    this.#data = data;
    if (this.#plot === null) {
      this.#rebuild();
    } else {
      this.#plot.setData(data);
    }
  }

  #rebuild() {
    if (this.#data === null) {
      return;
    }
    this.#plot?.destroy();
    const size = { width: Math.max(this.#place.clientWidth, 200), height: HEIGHT };
    this.#plot = new window.uPlot({ ...size, padding: [8, null, 0, null], legend: { show: false }, ...this.#options() }, this.#data, this.#place);
  }

  #resize() {
    if (this.#plot !== null && this.#place.clientWidth > 0) {
      this.#plot.setSize({ width: this.#place.clientWidth, height: HEIGHT });
    }
  }
}

function wholeNumbers(plot, values) {
  return values.map((value) => (Number.isInteger(value) ? String(value) : ""));
}

function clockTimes(plot, values) {
  const wanted = { hour: "2-digit", minute: "2-digit" };
  if (values.at(-1) - values[0] < 600) {
    wanted.second = "2-digit";
  }
  return values.map((seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB", wanted));
}

/** Requests and failures as bars, the time to the first token as a line. */
export function trafficChart(place) {
  const bars = () => window.uPlot.paths.bars({ size: [0.7, 12] });
  return new Chart(place, () => ({
    cursor: { drag: { x: false, y: false }, points: { show: false } },
    scales: { x: { range: (plot, first, last) => [first - 40, last + 40] }, requests: { range: (plot, low, high) => [0, Math.max(high, 4)] }, wait: { range: (plot, low, high) => [0, Math.max(high * 1.1, 100)] } },
    axes: [
      axis({ values: clockTimes, space: 70, size: 30 }),
      axis({ scale: "requests", values: wholeNumbers, size: 44 }),
      axis({ scale: "wait", side: 1, grid: { show: false }, values: (plot, values) => values.map((value) => milliseconds(value).replace(".0 ", " ")), size: 62 }),
    ],
    series: [
      {},
      { scale: "requests", fill: colour("--chart-requests"), stroke: colour("--chart-requests"), width: 0, paths: bars(), points: { show: false } },
      { scale: "requests", fill: colour("--chart-failures"), stroke: colour("--chart-failures"), width: 0, paths: bars(), points: { show: false } },
      { scale: "wait", stroke: colour("--chart-wait"), width: 2, spanGaps: true, points: { size: 5, fill: colour("--chart-wait") } },
    ],
  }));
}

/** From the first moment to the last; uPlot itself gives a single one a whole day. */
function atLeastAMinute({ data: [moments] }) {
  const last = moments.at(-1);
  return [Math.min(moments[0], last - SHORTEST_SECONDS), last];
}

/** How long each probe took. */
export function probeChart(place) {
  return new Chart(place, () => ({
    cursor: { drag: { x: false, y: false }, points: { show: false } },
    scales: { x: { range: atLeastAMinute }, wait: { range: (plot, low, high) => [0, Math.max(high * 1.1, 10)] } },
    axes: [axis({ values: clockTimes, space: 70, size: 30 }), axis({ scale: "wait", values: (plot, values) => values.map((value) => milliseconds(value).replace(".0 ", " ")), size: 62 })],
    series: [{}, { scale: "wait", stroke: colour("--chart-wait"), width: 2, points: { size: 4, fill: colour("--chart-wait") } }],
  }));
}

function days(plot, values) {
  const format = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
  return values.map((seconds) => (seconds % DAY_SECONDS === 0 ? format.format(new Date(seconds * 1000)) : ""));
}

/** Tokens of each day as bars, those of prompts below those of answers; requests as a line. */
export function usageChart(place) {
  const bars = () => window.uPlot.paths.bars({ size: [0.7, 28] });
  return new Chart(place, () => ({
    tzDate: (seconds) => window.uPlot.tzDate(new Date(seconds * 1000), "UTC"),
    cursor: { drag: { x: false, y: false }, points: { show: false } },
    scales: {
      x: { range: (plot, first, last) => [first - DAY_SECONDS * 0.6, last + DAY_SECONDS * 0.6] },
      tokens: { range: (plot, low, high) => [0, Math.max(high * 1.05, 10)] },
      requests: { range: (plot, low, high) => [0, Math.max(high * 1.05, 4)] },
    },
    axes: [
      axis({ values: days, space: 60, size: 30, incrs: [1, 2, 7, 14, 30, 90, 365].map((many) => many * DAY_SECONDS) }),
      axis({ scale: "tokens", values: (plot, values) => values.map((value) => (Number.isInteger(value) ? short(value) : "")), size: 52 }),
      axis({ scale: "requests", side: 1, grid: { show: false }, values: wholeNumbers, size: 44 }),
    ],
    series: [
      {},
      { scale: "tokens", fill: colour("--chart-requests"), stroke: colour("--chart-requests"), width: 0, paths: bars(), points: { show: false } },
      { scale: "tokens", fill: colour("--chart-prompts"), stroke: colour("--chart-prompts"), width: 0, paths: bars(), points: { show: false } },
      { scale: "requests", stroke: colour("--chart-wait"), width: 2, points: { size: 5, fill: colour("--chart-wait") } },
    ],
  }));
}
