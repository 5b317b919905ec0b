// What every page has: colours, sign out, the network's state, the quick counts, times that grow older.

import { call, isAdmin, mayOwnServers } from "./api.js";
import { build, find, setHidden, setText, whileBusy } from "./dom.js";
import { count, plural, tickTimes } from "./format.js";
import { live } from "./live.js";
import { toastError } from "./toasts.js";

const THEMES = [
  ["", "◐", "as the system"],
  ["light", "☀", "light"],
  ["dark", "☾", "dark"],
];
const LIVENESS = {
  live: ["Live", "Changes are shown as they happen"],
  connecting: ["Connecting", "Trying to get the live changes"],
  polling: ["Polling", "The live changes cannot be had; asking every few seconds instead"],
  lost: ["Offline", "The gateway cannot be reached; trying again"],
};

function watchTheme() {
  const button = find("#theme");
  const show = () => {
    const chosen = document.documentElement.dataset.theme ?? "";
    const [, sign, name] = THEMES.find(([theme]) => theme === chosen) ?? THEMES[0];
    setText(button, sign);
    button.setAttribute("aria-label", `Colours: ${name}`);
    button.title = `Colours: ${name}`;
  };
  button.addEventListener("click", () => {
    const chosen = document.documentElement.dataset.theme ?? "";
    const [next] = THEMES[(THEMES.findIndex(([theme]) => theme === chosen) + 1) % THEMES.length];
    if (next) {
      document.documentElement.dataset.theme = next;
    } else {
      delete document.documentElement.dataset.theme;
    }
    try {
      localStorage.setItem("theme", next);
    } catch {
      // Not remembered, then.
    }
    show();
    window.dispatchEvent(new Event("themechange"));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => window.dispatchEvent(new Event("themechange")));
  show();
}

function watchSignOut() {
  const button = document.querySelector("#sign-out");
  button?.addEventListener("click", () =>
    whileBusy(button, async () => {
      try {
        await call("DELETE", "/session");
        location.assign("/");
      } catch (error) {
        toastError(error);
      }
    }),
  );
  const link = document.querySelector("#sign-in");
  if (link !== null && location.pathname !== "/") {
    link.href = `/sign-in?next=${encodeURIComponent(location.pathname)}`;
  }
}

/** On a phone the pages' names do not fit: the present one shall be seen. */
function showWhere() {
  const current = document.querySelector("nav.pages [aria-current]");
  const row = find("nav.pages ul").parentElement;
  if (current !== null) {
    row.scrollLeft = current.offsetLeft - row.offsetLeft - (row.clientWidth - current.offsetWidth) / 2;
  }
}

function watchNetwork() {
  const banner = find("#network");
  const retry = build("button", { type: "button", class: "quiet" }, "Try again");
  banner.append(build("span", {}, "The gateway cannot be reached. It may be restarting, or this device is offline."), retry);
  retry.addEventListener("click", () => whileBusy(retry, () => call("GET", "/session").catch(() => undefined)));
  window.addEventListener("reachable", (event) => setHidden(banner, event.detail));
  window.addEventListener("offline", () => setHidden(banner, false));
  window.addEventListener("online", () => live.retryNow());
  retry.addEventListener("click", () => live.retryNow());
}

function watchCounts() {
  const counts = find("#quick-counts");
  const liveness = find("#liveness");
  live.on("state", (state) => {
    const [word, title] = LIVENESS[state];
    liveness.dataset.state = state;
    liveness.title = title;
    setText(liveness, word);
    setHidden(liveness, false);
  });
  const long = build("span", { class: "long" });
  const short = build("span");
  counts.append(short, long);
  live.on("counts", ({ servers, requests }) => {
    setText(short, `${count(servers.healthy)}/${count(servers.total)} healthy`);
    setText(long, ` · ${count(requests.in_flight)} in flight`);
    counts.title = `${plural(servers.total, "server")}: ${servers.healthy} healthy, ${servers.unhealthy} unhealthy, ${servers.unknown} unknown; ${requests.in_flight} requests in flight`;
    setHidden(counts, false);
  });
}

/** What those see who are not signed in. */
function watchOffer() {
  window.addEventListener("offered", ({ detail }) => {
    setText(find("#quick-counts"), `${plural(detail, "model")} on offer`);
    setHidden(find("#quick-counts"), false);
  });
}

/** To be called by every page's module, first. */
export function startFrame() {
  watchTheme();
  watchSignOut();
  watchNetwork();
  showWhere();
  setInterval(tickTimes, 1000);
  if (isAdmin) {
    watchCounts();
    live.start();
  } else {
    watchOffer();
    if (mayOwnServers) {
      live.startAsking();
    }
  }
}
