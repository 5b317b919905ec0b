// Short messages at the edge of the page. Errors stay until they are closed; the rest goes by itself.

import { build, find } from "./dom.js";

const SHOWN_MS = 6000;
const MOST_TOASTS = 4;

export function toast(text, kind = "success") {
  const region = find("#toasts");
  const close = build("button", { type: "button", class: "quiet icon", "aria-label": "Close this message" }, "×");
  const message = build("div", { class: `toast ${kind}`, role: kind === "error" ? "alert" : "status" }, build("span", {}, text), close);
  close.addEventListener("click", () => message.remove());
  region.append(message);
  while (region.children.length > MOST_TOASTS) {
    region.firstElementChild.remove();
  }
  if (kind !== "error") {
    setTimeout(() => message.remove(), SHOWN_MS);
  }
}

/** Says what went wrong; an abort is what somebody asked for. */
export function toastError(error) {
  if (error.name === "AbortError") {
    return;
  }
  const reference = error.requestId && error.status >= 500 ? ` (request ${error.requestId})` : "";
  toast(`${error.message}${reference}`, error.status === 429 ? "warning" : "error");
  if (!("code" in error)) {
    throw error;
  }
}
