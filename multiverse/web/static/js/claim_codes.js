// Claim codes: made, shown large for the blackboard, counted while the class claims, withdrawn.

import { call } from "./api.js";
import { build, copyButton, find, setHidden, setText, whileBusy } from "./dom.js";
import { Fields, wholeNumber } from "./fields.js";
import { count, exactTime, plural, until } from "./format.js";
import { toast, toastError } from "./toasts.js";

const ASK_AGAIN_MS = 3000;
const MOST_USES = 10_000;

/** Shows the code as large as a class needs it; the link carries it behind the #, which no server sees. */
function showOnBoard(code) {
  const board = find("#board");
  const address = `${location.origin}/claim`;
  board.replaceChildren(
    build("p", { class: "muted" }, "Open ", build("strong", {}, address.replace(/^https?:\/\//, "")), " and type"),
    build("p", { class: "code" }, code),
    build("div", { class: "actions" }, copyButton(() => code, "Copy the code"), copyButton(() => `${address}#${code}`, "Copy a link with it"), build("span", { class: "muted" }, "It is shown this once.")),
  );
  setHidden(board, false);
  board.focus();
}

function line(code, withdraw) {
  const button = build("button", { type: "button", class: "quiet" }, "Withdraw");
  button.addEventListener("click", () => whileBusy(button, () => withdraw(code)));
  return build(
    "li",
    {},
    build("span", { class: "model-name" }, `${count(code.used)} of ${plural(code.uses, "key")} claimed`),
    build("span", { class: "muted", title: exactTime(code.expires_at) }, `${code.role} · ends ${until(code.expires_at)}`),
    button,
  );
}

/** `onUse` is called when somebody has claimed a key. */
export function startClaimCodes({ onUse }) {
  const form = find("#code-form");
  const uses = (text) => wholeNumber(text) || (Number(text) <= MOST_USES ? "" : `At most ${count(MOST_USES)}.`);
  const fields = new Fields(form, { uses, lifetime_minutes: wholeNumber }, { required: ["uses", "lifetime_minutes"] });
  const list = find("#codes");
  let used = null;
  let timer = null;

  async function withdraw(code) {
    try {
      await call("DELETE", `/admin/claim-codes/${code.code_id}`);
      toast("Nobody can claim with that code any more.");
      setHidden(find("#board"), true);
      await refresh();
    } catch (error) {
      toastError(error);
    }
  }

  function show(codes) {
    const living = codes.filter((code) => code.used < code.uses && until(code.expires_at) !== null).reverse();
    const shown = JSON.stringify(living.map((code) => [code.code_id, code.used, until(code.expires_at)]));
    if (list.dataset.shown !== shown && !list.contains(document.activeElement)) {
      list.dataset.shown = shown;
      list.replaceChildren(...living.map((code) => line(code, withdraw)));
    }
    const over = codes.length - living.length;
    const ended = over ? `${plural(over, "code")} used up or ended.` : "";
    setText(find("#codes-state"), living.length ? ended : `No code can be used now. ${ended}`);
    const claimed = codes.reduce((sum, code) => sum + code.used, 0);
    if (used !== null && claimed !== used) {
      onUse();
    }
    used = claimed;
  }

  async function refresh() {
    clearTimeout(timer);
    try {
      show((await call("GET", "/admin/claim-codes")).claim_codes);
    } catch (error) {
      if (error.status !== 0 && error.status !== 401) {
        toastError(error);
      }
    }
    timer = setTimeout(() => (document.hidden ? (timer = null) : refresh()), ASK_AGAIN_MS);
  }

  document.addEventListener("visibilitychange", () => document.hidden || timer !== null || refresh());
  fields.whenSent(async () => {
    const body = { uses: Number(fields.text("uses")), lifetime_minutes: Number(fields.text("lifetime_minutes")), role: fields.text("role"), key_expires_at: fields.text("key_expires_at") || null };
    showOnBoard((await call("POST", "/admin/claim-codes", body)).code);
    await refresh();
  });
  refresh();
}
