// The fields of a form: what may stand in them, and errors beside them as one types. The gateway judges again; rules
// here are its own (web/schemas.py) in the words of a form. A field `x` has its complaints in `#x-error`.

import { find, setHidden, setText, whileBusy } from "./dom.js";
import { count } from "./format.js";

const LARGEST_NUMBER = 2 ** 31 - 1;
const TYPING_MS = 500;
const NAME_OF_MODEL = /^[A-Za-z0-9._\-:/@+]{1,200}$/;

export function wholeNumber(text) {
  if (!/^\d+$/.test(text) || Number(text) < 1) {
    return "A whole number of at least 1.";
  }
  return Number(text) <= LARGEST_NUMBER ? "" : `At most ${count(LARGEST_NUMBER)}.`;
}

export function email(text) {
  return /^[^\s@]+@[^\s@]+\.[^\s@]+$/.test(text) ? "" : "This is not an e-mail address.";
}

export function atMost(longest) {
  return (text) => (text.length <= longest ? "" : `At most ${longest} characters.`);
}

export function modelName(text) {
  return NAME_OF_MODEL.test(text) ? "" : "At most 200 letters, digits and . _ - : / @ +";
}

/** The words of a list with commas, each once. */
export function listOf(text) {
  return [...new Set(text.split(",").map((word) => word.trim()).filter(Boolean))];
}

export class Fields {
  #touched = new Set();
  #refused = new Map(); // What the gateway said about a text, by name; it holds until there is another text.
  #rules;
  #required;
  #onInput;

  /** `rules`: by name, what is wrong with a text, empty for nothing; undefined where any text will do. */
  constructor(form, rules, { required = [], onInput = () => {} } = {}) {
    this.form = form;
    this.names = [];
    this.#rules = {};
    this.#required = new Set(required);
    this.#onInput = onInput;
    for (const [name, rule] of Object.entries(rules)) {
      this.add(name, rule);
    }
  }

  /** One more field, which has just come into the form. */
  add(name, rule) {
    this.names.push(name);
    this.#rules[name] = rule;
    this.#watch(name);
  }

  #watch(name) {
    const input = this.input(name);
    let timer;
    input.addEventListener("input", () => {
      if (this.#touched.has(name)) {
        this.judge(name);
      }
      this.#onInput(name);
      // Once something has been typed for a moment, say what is wrong with it: beside the field, as one types.
      clearTimeout(timer);
      timer = setTimeout(() => {
        if (this.text(name)) {
          this.touch(name);
          this.judge(name);
        }
      }, TYPING_MS);
    });
    input.addEventListener("blur", ({ relatedTarget }) => {
      if (relatedTarget?.closest("button")) {
        return; // A complaint would move the button from under the pointer; sending judges all fields anyway.
      }
      if (input.value.trim() || this.#touched.has(name)) {
        this.touch(name);
        this.judge(name);
      }
    });
  }

  input(name) {
    return this.form.elements.namedItem(name);
  }

  text(name) {
    return this.input(name).value.trim();
  }

  /** From now on the field is judged at every key. */
  touch(name) {
    this.#touched.add(name);
  }

  complain(name, text) {
    const error = find(`#${name}-error`, this.form);
    setText(error, text);
    setHidden(error, text === "");
    if (text) {
      this.input(name).setAttribute("aria-invalid", "true");
    } else {
      this.input(name).removeAttribute("aria-invalid");
    }
  }

  /** Whether the field is well; says beside it why not. */
  judge(name) {
    const text = this.text(name);
    const complaint = text ? (this.#rules[name]?.(text) ?? "") : this.#required.has(name) ? "This is needed." : "";
    const refused = this.#refused.get(name);
    this.complain(name, complaint || (refused?.text === text ? refused.message : ""));
    return complaint === "";
  }

  /** Again those that were judged before, where what is right in one field depends on another. */
  judgeAgain() {
    for (const name of this.#touched) {
      this.judge(name);
    }
  }

  /** Whether all fields are well; the first that is not gets the focus. */
  judgeAll() {
    this.#refused.clear();
    const wrong = this.names.filter((name) => {
      this.touch(name);
      return !this.judge(name);
    });
    if (wrong.length) {
      this.input(wrong[0]).focus();
    }
    return wrong.length === 0;
  }

  /** `send()` when the form is sent and all fields are well; what it throws is shown in the form. */
  whenSent(send) {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.clearFailure();
      if (!this.judgeAll()) {
        return;
      }
      whileBusy(find("button[type=submit]", this.form), async () => {
        try {
          await send();
        } catch (error) {
          this.showFailure(error);
        }
      });
    });
  }

  /** Shows the API's own message: beside its field where it names one. */
  showFailure(error) {
    if (this.names.includes(error.param)) {
      this.touch(error.param);
      const message = error.message.replace(/^The field `\w+`: (.)/, (_whole, first) => first.toUpperCase());
      this.#refused.set(error.param, { text: this.text(error.param), message });
      this.judge(error.param);
      this.input(error.param).focus();
      return;
    }
    const place = find(".form-error", this.form);
    setText(place, error.message);
    setHidden(place, false);
  }

  clearFailure() {
    setHidden(find(".form-error", this.form), true);
  }

  clearComplaints() {
    this.#touched.clear();
    this.#refused.clear();
    for (const name of this.names) {
      this.complain(name, "");
    }
    this.clearFailure();
  }
}
