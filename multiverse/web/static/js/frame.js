// What every page has: colours, sign out, the network's state, the quick counts, times that grow older.

import { call, isAdmin, isSignedIn, mayAsk, mayOwnServers } from "./api.js";
import { build, find, setHidden, setText, whileBusy } from "./dom.js";
import { count, plural, tickTimes } from "./format.js";
import { live } from "./live.js";
import { toastError } from "./toasts.js";

const ASK_AGAIN_MS = 10_000;
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
  ended: ["Signed out", "Your session has ended: sign in again to see what changes"],
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

/** Where one signs in, and comes back to this page from. */
function signInPath() {
  return `/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`;
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
  if (link !== null && !["/", "/claim"].includes(location.pathname)) {
    link.href = signInPath();
  }
}

/** A session may end while its page is open: after twelve hours, with its key, and when the gateway restarts. */
function watchSession() {
  const banner = find("#session");
  const link = build("a", {}, "Sign in again");
  banner.append(build("span", {}, "Your session has ended: what is shown here may be old."), link);
  const show = () => {
    link.href = signInPath();
    setHidden(banner, false);
  };
  window.addEventListener("sessionend", show);
  live.on("state", (state) => state === "ended" && show());
  document.addEventListener("visibilitychange", async () => {
    if (!document.hidden) {
      // Somebody comes back to the page, from signing in in another tab perhaps.
      const { signed_in: signedIn } = await call("GET", "/session").catch(() => ({ signed_in: banner.hidden }));
      if (signedIn) {
        setHidden(banner, true);
      } else {
        show();
      }
    }
  });
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
  const ask = () => call("GET", "/session").catch(() => undefined);
  retry.addEventListener("click", () => whileBusy(retry, ask));
  window.addEventListener("reachable", (event) => setHidden(banner, event.detail));
  window.addEventListener("offline", () => setHidden(banner, false));
  window.addEventListener("online", () => {
    ask();
    live.retryNow();
  });
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

/** What everybody may know: how much is on offer. Pages that list the models ask for them anyway. */
function watchOffer(asksItself) {
  const counts = find("#quick-counts");
  window.addEventListener("offered", ({ detail }) => {
    const total = detail.reduce((sum, { servers }) => sum + servers, 0);
    const healthy = detail.reduce((sum, model) => sum + model.healthy_servers, 0);
    setText(counts, `${plural(detail.length, "model")} on offer`);
    counts.title = `${count(healthy)} of ${plural(total, "server")} healthy`;
    setHidden(counts, false);
  });
  const ask = () => document.hidden || call("GET", "/v1/models").catch(() => undefined);
  if (mayAsk && !asksItself) {
    ask();
    setInterval(ask, ASK_AGAIN_MS);
  }
}

/** To be called by every page's module, first. `listsModels`: the page asks `/v1/models` itself, again and again. */
export function startFrame({ listsModels = false } = {}) {
  watchTheme();
  watchSignOut();
  watchNetwork();
  if (isSignedIn) {
    watchSession();
  }
  showWhere();
  setInterval(tickTimes, 1000);
  if (isAdmin) {
    watchCounts();
    live.start();
  } else {
    watchOffer(listsModels);
    if (mayOwnServers) {
      live.startAsking();
    }
  }
}
