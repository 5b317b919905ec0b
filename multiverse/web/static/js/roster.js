// A roster: one key for each of its lines.

import { call } from "./api.js";
import { find, setAttribute, setHidden } from "./dom.js";
import { Fields } from "./fields.js";

const LARGEST_FILE = 1_000_000;

/** `onMade` gets the keys, secrets included. */
export function startRoster(onMade) {
  const card = find("#roster-card");
  const form = find("#roster-form");
  const open = find("#open-roster");
  const fields = new Fields(form, { csv: () => "" }, { required: ["csv"] });

  const show = (shown) => {
    setHidden(card, !shown);
    setAttribute(open, "aria-expanded", String(shown));
    if (shown) {
      fields.input("csv").focus();
    } else {
      form.reset();
      fields.clearComplaints();
      open.focus();
    }
  };

  open.addEventListener("click", () => show(card.hidden));
  find("#close-roster").addEventListener("click", () => show(false));
  find("#roster-file").addEventListener("change", async ({ target }) => {
    const [file] = target.files;
    if (file === undefined) {
      return;
    }
    if (file.size > LARGEST_FILE) {
      fields.complain("csv", "This file is too large for a roster.");
      return;
    }
    fields.input("csv").value = await file.text();
    fields.judge("csv");
  });
  fields.whenSent(async () => {
    const body = { csv: fields.input("csv").value, role: fields.text("role"), expires_at: fields.text("expires_at") || null };
    const { keys } = await call("POST", "/admin/keys/import", body);
    show(false);
    onMade(keys);
  });
}
