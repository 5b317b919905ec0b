// The colours that were chosen, before anything is painted. A classic script: a module would run too late.
"use strict";
try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") {
    document.documentElement.dataset.theme = chosen;
  }
} catch {
  // Storage is switched off: the system's colours it is.
}
