// One alias in a dialog: its name, and the models it stands for, which can be put in another order.

import { ApiError, call } from "./api.js";
import { build, find, setAttribute, setHidden, setText, whileBusy } from "./dom.js";
import { Fields, modelName } from "./fields.js";
import { toast } from "./toasts.js";

const MOST_MODELS = 200;

/** What an alias does, as a sentence. */
function inWords(name, [first, ...others]) {
  const told = `Who asks for ${name} gets ${first}.`;
  return others.length ? `${told} When none of its servers can answer: ${others.join(", then ")}.` : told;
}

const sameModels = (some, others) => JSON.stringify(some) === JSON.stringify(others);

export class AliasDialog {
  aliases = []; // As they were when the page last asked.
  #models = [];
  #dialog = find("#alias-dialog");
  #form = find("#alias-form");
  #list = find("#targets");
  #places = []; // Rows of models. Texts move, places stay; those behind the last one in use are hidden.
  #fields = new Fields(this.#form, { name: (text) => this.#judgeName(text) }, { required: ["name", "model-1"], onInput: () => this.#changed() });
  #alias = null;
  #known = undefined; // What the name stood for when the dialog was opened, or when its change by others was told.
  #onChange;

  constructor({ onChange }) {
    this.#onChange = onChange;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#save();
    });
    this.#fields.input("name").addEventListener("change", () => this.#offerFallBack());
    find("#add-target").addEventListener("click", () => this.#fill([...this.#texts(), ""]).at(-1).input.focus());
    find("#cancel-alias").addEventListener("click", () => this.#dialog.close());
  }

  /** The names of the models that are registered. */
  set models(names) {
    if (!sameModels(this.#models, names)) {
      this.#models = names;
      find("#known-models").replaceChildren(...names.map((name) => build("option", { value: name })));
    }
  }

  /** For `alias`, or for a new one. */
  open(alias) {
    this.#alias = alias;
    this.#known = alias?.models;
    this.#form.reset();
    this.#fields.clearComplaints();
    this.#fields.input("name").value = alias?.name ?? "";
    this.#fill(alias?.models ?? [""]);
    setText(find("#alias-title"), alias === null ? "New alias" : `What ${alias.name} stands for`);
    setText(find("#save-alias"), alias === null ? "Make the alias" : "Save changes");
    setHidden(find("#alias-name"), alias !== null);
    this.#dialog.showModal();
    this.#fields.input(alias === null ? "name" : "model-1").focus();
  }

  // -- the models, in order

  #used() {
    return this.#places.filter(({ row }) => !row.hidden);
  }

  #texts() {
    return this.#used().map(({ input }) => input.value);
  }

  #named() {
    return this.#texts().map((text) => text.trim()).filter(Boolean);
  }

  /** Shows these texts, one in each row; returns the rows. */
  #fill(texts) {
    while (this.#places.length < texts.length) {
      this.#addPlace(this.#places.length);
    }
    this.#places.forEach(({ row, input }, index) => {
      setHidden(row, index >= texts.length);
      input.value = texts[index] ?? "";
    });
    setHidden(find("#add-target"), texts.length >= MOST_MODELS);
    this.#changed();
    return this.#used();
  }

  #addPlace(index) {
    const field = `model-${index + 1}`;
    const button = (sign, onclick) => build("button", { type: "button", class: "quiet icon", onclick }, sign);
    const place = {
      input: build("input", { id: field, name: field, list: "known-models", autocomplete: "off", autocapitalize: "none", spellcheck: "false", "aria-label": `Model ${index + 1}`, "aria-describedby": `${field}-error` }),
      up: button("↑", () => this.#move(index, index - 1, "up")),
      down: button("↓", () => this.#move(index, index + 1, "down")),
      out: button("×", () => this.#takeOut(index)),
    };
    place.row = build("li", {}, build("div", { class: "target" }, place.input, place.up, place.down, place.out), build("small", { class: "error", id: `${field}-error`, hidden: true }));
    this.#places.push(place);
    this.#list.append(place.row);
    this.#fields.add(field, (text) => this.#judgeModel(text, index));
  }

  #move(from, to, way) {
    const texts = this.#texts();
    [texts[from], texts[to]] = [texts[to], texts[from]];
    const { [way]: button, up, down } = this.#fill(texts)[to];
    (button.disabled ? (way === "up" ? down : up) : button).focus();
  }

  #takeOut(index) {
    const rows = this.#fill(this.#texts().filter((_text, place) => place !== index));
    rows[Math.min(index, rows.length - 1)].input.focus();
  }

  /** Texts are others now: what is told of them, and what the buttons can do. */
  #changed() {
    const rows = this.#used();
    rows.forEach(({ input, up, down, out }, index) => {
      const what = input.value.trim() || `model ${index + 1}`;
      setAttribute(up, "aria-label", `Move ${what} up`);
      setAttribute(down, "aria-label", `Move ${what} down`);
      setAttribute(out, "aria-label", `Take ${what} out`);
      up.disabled = index === 0;
      down.disabled = index === rows.length - 1;
      out.disabled = rows.length === 1;
    });
    this.#fields.judgeAgain();
    this.#explain();
  }

  /** What will come of it, while nothing is wrong with it. */
  #explain() {
    const name = this.#fields.text("name");
    const models = this.#named();
    const well = name && models.length && !this.#judgeName(name) && !this.#texts().some((text, index) => text.trim() && this.#judgeModel(text.trim(), index));
    const hides = this.#models.includes(name) && !models.includes(name);
    const meaning = find("#alias-meaning");
    setText(meaning, well ? `${inWords(name, models)}${hides ? ` The model ${name} itself is asked no more.` : ""}` : "");
    setHidden(meaning, !well);
    meaning.classList.toggle("unsure", hides);
  }

  /** Whoever gives the name of a model wants that model first, and then another. */
  #offerFallBack() {
    const name = this.#fields.text("name");
    if (this.#models.includes(name) && this.#named().length === 0) {
      this.#fill([name, ""]);
    }
  }

  // -- what may stand there

  #judgeName(text) {
    if (this.#alias === null && this.aliases.some(({ name }) => name === text)) {
      return "There is an alias of this name already: change that one.";
    }
    return /^\.\.?$/.test(text) ? "Not dots alone: in an address they mean something else." : modelName(text);
  }

  #judgeModel(text, index) {
    const name = this.#fields.text("name");
    const named = this.#texts().map((other) => other.trim());
    if (named.indexOf(text) < index) {
      return "It stands above already.";
    }
    if (text === name && named.every((other) => !other || other === name)) {
      return "A name that stands only for itself is no alias: add another model.";
    }
    const alias = text !== name && this.aliases.find((other) => other.name === text && !other.models.includes(text));
    return alias ? `This is an alias itself: name what it stands for, ${alias.models.join(", ")}.` : modelName(text);
  }

  // -- saving

  #save() {
    this.#fields.clearFailure();
    whileBusy(find("#save-alias"), async () => {
      try {
        this.aliases = (await call("GET", "/admin/aliases")).aliases; // What is right depends on them.
        if (this.#fields.judgeAll()) {
          await this.#put(this.#fields.text("name"), this.#named());
        }
      } catch (error) {
        this.#showFailure(error);
      }
    });
  }

  async #put(name, models) {
    const standing = this.aliases.find((alias) => alias.name === name)?.models;
    if (!sameModels(standing, this.#known)) {
      this.#known = standing;
      const now = standing ? `It stands for ${standing.join(", then ")} now.` : "It is no alias any more.";
      throw new ApiError(`Somebody else has changed it meanwhile. ${now} Save again to put this in its place.`);
    }
    await call("PUT", `/admin/aliases/${encodeURIComponent(name)}`, { models });
    this.#dialog.close();
    toast("It holds from the next request on.");
    await this.#onChange();
  }

  /** Beside the model that the gateway's message names, else the first. */
  #showFailure(error) {
    if (error.param === "models") {
      const index = Math.max(this.#texts().findIndex((text) => text.trim() && error.message.includes(`'${text.trim()}'`)), 0);
      this.#fields.showFailure(new ApiError(error.message, { param: `model-${index + 1}` }));
    } else {
      this.#fields.showFailure(error);
    }
  }
}
