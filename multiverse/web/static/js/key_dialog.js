// One key in a dialog: a new one, or one to change or revoke.

import { call } from "./api.js";
import { find, setHidden, setText, whileBusy } from "./dom.js";
import { atMost, email, Fields, listOf, modelName, wholeNumber } from "./fields.js";
import { toast } from "./toasts.js";

const HEAVIEST = 100;
const NUMBERS = ["requests_per_minute", "requests_at_once", "tokens_per_day", "weight"];
const ROLES = {
  student: "Asks models, and registers servers of their own.",
  reader: "Asks models.",
  admin: "May do everything, with every server and key.",
};

function models(text) {
  return listOf(text).every((name) => modelName(name) === "") ? "" : "Names of models: letters, digits and . _ - : / @ + with commas between them.";
}

function weight(text) {
  return wholeNumber(text) || (Number(text) <= HEAVIEST ? "" : `At most ${HEAVIEST}.`);
}

const RULES = { name: atMost(200), email, models, requests_per_minute: wholeNumber, requests_at_once: wholeNumber, tokens_per_day: wholeNumber, weight };
const ALL = ["name", "email", "role", "expires_at", "models", ...NUMBERS];

export class KeyDialog {
  #dialog = find("#key-dialog");
  #form = find("#key-form");
  #fields = new Fields(this.#form, RULES, { required: ["name", "weight"] });
  #confirm = find("#confirm-revoke");
  #key = null;
  #before = {};
  #onChange;
  #onMade;

  constructor({ onChange, onMade }) {
    this.#onChange = onChange;
    this.#onMade = onMade;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#save();
    });
    this.#form.elements.role.addEventListener("change", () => this.#explainRole());
    find("#cancel-key").addEventListener("click", () => this.#dialog.close());
    find("#revoke-key").addEventListener("click", () => {
      setText(find("#revoke-title"), `Revoke the key of ${this.#key.name}?`);
      this.#confirm.showModal();
    });
    find("#cancel-revocation").addEventListener("click", () => this.#confirm.close());
    find("#confirm-revocation").addEventListener("click", () => this.#revoke());
  }

  /** For `key`, or for a new one. */
  open(key) {
    this.#key = key;
    this.#form.reset();
    this.#fields.clearComplaints();
    if (key !== null) {
      this.#fill(key);
    }
    this.#before = this.#body();
    setText(find("#key-title"), key === null ? "New key" : `The key of ${key.name}`);
    setText(find("#save-key"), key === null ? "Make the key" : "Save changes");
    setHidden(find("#revoke-key"), key === null);
    this.#explainRole();
    this.#dialog.showModal();
    this.#fields.input("name").focus();
  }

  #fill(key) {
    for (const name of ALL) {
      this.#fields.input(name).value = key[name] ?? "";
    }
    this.#fields.input("models").value = (key.models ?? []).join(", ");
    this.#fields.input("expires_at").value = (key.expires_at ?? "").slice(0, 10);
  }

  #explainRole() {
    setText(find("#role-help"), ROLES[this.#form.elements.role.value]);
  }

  /** The fields as the API takes them. */
  #body() {
    const body = {};
    for (const name of ALL) {
      const text = this.#fields.text(name);
      body[name] = text === "" ? null : NUMBERS.includes(name) ? Number(text) : text;
    }
    const named = listOf(this.#fields.text("models"));
    return { ...body, models: named.length ? named : null };
  }

  /** What differs from how the form was opened: what others changed meanwhile stays theirs. */
  #changes() {
    const body = this.#body();
    return Object.fromEntries(ALL.filter((name) => JSON.stringify(body[name]) !== JSON.stringify(this.#before[name])).map((name) => [name, body[name]]));
  }

  #save() {
    this.#fields.clearFailure();
    if (!this.#fields.judgeAll()) {
      return;
    }
    whileBusy(find("#save-key"), async () => {
      try {
        if (this.#key === null) {
          const made = await call("POST", "/admin/keys", this.#body());
          this.#dialog.close();
          this.#onMade(made);
        } else {
          await this.#change(this.#changes());
        }
      } catch (error) {
        this.#fields.showFailure(error);
      }
    });
  }

  async #change(changes) {
    if (Object.keys(changes).length) {
      this.#onChange(await call("PATCH", `/admin/keys/${this.#key.key_id}`, changes));
      toast("The change holds from the next request on.");
    }
    this.#dialog.close();
  }

  #revoke() {
    whileBusy(find("#confirm-revocation"), async () => {
      try {
        const revoked = await call("DELETE", `/admin/keys/${this.#key.key_id}`);
        this.#confirm.close();
        this.#dialog.close();
        this.#onChange(revoked);
        toast(`The key of ${revoked.name} is revoked.`);
      } catch (error) {
        this.#confirm.close();
        this.#fields.showFailure(error);
      }
    });
  }
}
