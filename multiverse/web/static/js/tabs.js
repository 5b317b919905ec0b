// Code in several languages behind tabs, as the WAI-ARIA practices describe them: arrows move, the chosen one is remembered.

import { build, copyButton } from "./dom.js";
import { LANGUAGES, snippet } from "./snippets.js";

function remembered() {
  try {
    return localStorage.getItem("language") ?? "python";
  } catch {
    return "python";
  }
}

/** Tabs with the code that `body()` amounts to, with `key` in it; `refresh()` writes it anew. */
export function snippetTabs(body, label, key = undefined) {
  const code = build("code");
  const panelId = `panel-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
  const panel = build("div", { role: "tabpanel", id: panelId, class: "snippet", "aria-label": label }, build("pre", { tabindex: "0" }, code), copyButton(() => code.textContent));
  const tabs = LANGUAGES.map(([language, name]) => build("button", { type: "button", role: "tab", "aria-controls": panelId, dataset: { language } }, name));
  let chosen = LANGUAGES.some(([language]) => language === remembered()) ? remembered() : "python";

  const refresh = () => {
    for (const tab of tabs) {
      const selected = tab.dataset.language === chosen;
      tab.setAttribute("aria-selected", String(selected));
      tab.tabIndex = selected ? 0 : -1;
    }
    code.textContent = snippet(chosen, body(), key);
  };
  const choose = (tab) => {
    chosen = tab.dataset.language;
    try {
      localStorage.setItem("language", chosen);
    } catch {
      // Not remembered, then.
    }
    refresh();
    tab.focus();
  };
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) {
        event.preventDefault();
        choose(tabs[(place + step + tabs.length) % tabs.length]);
      }
    });
  });
  refresh();
  const element = build("div", { class: "tabs" }, build("div", { role: "tablist", "aria-label": label }, ...tabs), panel);
  return { element, refresh };
}
