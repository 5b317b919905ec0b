// The key goes out once and comes back as a cookie that no script can read.

import { call } from "./api.js";
import { find, setHidden, setText, whileBusy } from "./dom.js";
import { startFrame } from "./frame.js";

startFrame();

const form = find("#sign-in-form");
const input = find("#key");
const error = find("#key-error");

function complain(text) {
  setText(error, text);
  setHidden(error, text === "");
  if (text) {
    input.setAttribute("aria-invalid", "true");
    input.focus();
  } else {
    input.removeAttribute("aria-invalid");
  }
}

/** Only a path of ours: anything else could lead to another site. */
function nextPath() {
  const wanted = new URLSearchParams(location.search).get("next") ?? "/";
  const address = new URL(wanted, location.origin);
  return wanted.startsWith("/") && address.origin === location.origin ? address.pathname + address.search : "/";
}

input.addEventListener("input", () => complain(""));
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const key = input.value.trim();
  if (!key) {
    complain("Type or paste the key.");
    return;
  }
  whileBusy(find("button[type=submit]", form), async () => {
    try {
      await call("POST", "/session", { key });
      location.assign(nextPath());
    } catch (problem) {
      complain(problem.status === 401 ? "This key is not known here. Check that it was copied whole." : problem.message);
    }
  });
});
