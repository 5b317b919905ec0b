// Numbers, durations and times as people read them. A time is relative, and exact on hover.

const NUMBER = new Intl.NumberFormat("en");
const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const EXACT = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const TIME = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

const DAY = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeZone: "UTC" });

export const NOTHING = "–";

export function count(value) {
  return value === null || value === undefined ? NOTHING : NUMBER.format(value);
}

export function compact(value) {
  return Math.abs(value) < 100_000 ? NUMBER.format(value) : COMPACT.format(value);
}

export function plural(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** Milliseconds, as `12 ms` or `1.4 s`. */
export function milliseconds(value) {
  if (value === null || value === undefined) {
    return NOTHING;
  }
  if (value < 10) {
    return `${value.toFixed(1)} ms`;
  }
  return value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(value < 10_000 ? 1 : 0)} s`;
}

export function bytes(value) {
  if (value === null || value === undefined) {
    return NOTHING;
  }
  const units = ["B", "kB", "MB", "GB", "TB"];
  let size = value;
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${size < 10 && unit > 0 ? size.toFixed(1) : Math.round(size)} ${units[unit]}`;
}

/** Seconds, as `3 d 4 h` or `12 min`. */
export function duration(seconds) {
  const whole = Math.max(Math.floor(seconds), 0);
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor((whole % 86400) / 3600), Math.floor((whole % 3600) / 60)];
  if (days) {
    return hours ? `${days} d ${hours} h` : `${days} d`;
  }
  if (hours) {
    return minutes ? `${hours} h ${minutes} min` : `${hours} h`;
  }
  return minutes ? `${minutes} min` : `${whole} s`;
}

export function ago(iso, now = Date.now()) {
  const seconds = Math.floor((now - Date.parse(iso)) / 1000);
  if (seconds < 1) {
    return "just now";
  }
  return `${duration(seconds).split(" ").slice(0, 2).join(" ")} ago`;
}

/** A moment to come, as `in 12 min`; null when it is over. */
export function until(iso, now = Date.now()) {
  const seconds = Math.ceil((Date.parse(iso) - now) / 1000);
  return seconds > 0 ? `in ${duration(seconds)}` : null;
}

export function day(iso) {
  return DAY.format(new Date(iso));
}

/** Tokens on an axis, as `1.5K`. */
export function short(value) {
  return COMPACT.format(value);
}

export function exactTime(iso) {
  return EXACT.format(new Date(iso));
}

/** The time of day, for moments of today. */
export function shortTime(iso) {
  const moment = new Date(iso);
  return moment.toDateString() === new Date().toDateString() ? TIME.format(moment) : EXACT.format(moment);
}

/** Shows a moment in `element`, a <time>, and lets it grow older. */
export function showTime(element, iso) {
  if (!iso) {
    element.removeAttribute("datetime");
    element.removeAttribute("title");
    element.textContent = "never";
    return;
  }
  if (element.getAttribute("datetime") !== iso) {
    element.setAttribute("datetime", iso);
    element.title = exactTime(iso);
  }
  const text = ago(iso);
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

/** Lets every relative time on the page grow older. */
export function tickTimes() {
  for (const element of document.querySelectorAll("time[data-ago][datetime]")) {
    showTime(element, element.getAttribute("datetime"));
  }
}

/** The host of an address, for narrow places. */
export function shortHost(address) {
  try {
    const { host, pathname } = new URL(address);
    const path = pathname === "/" ? "" : pathname;
    const shown = host + path;
    return shown.length <= 34 ? shown : `${shown.slice(0, 16)}…${shown.slice(-16)}`;
  } catch {
    return address;
  }
}
