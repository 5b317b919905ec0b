// Names that stand for models, for the admin: listed with how their models do, made, changed, removed.

import { AliasDialog } from "./alias_dialog.js";
import { call } from "./api.js";
import { build, find, setHidden, setText, whileBusy } from "./dom.js";
import { standing } from "./offer.js";
import { toast, toastError } from "./toasts.js";

const ASK_AGAIN_MS = 10_000;

class Aliases {
  #dialog = new AliasDialog({ onChange: () => this.refresh() });
  #confirm = find("#confirm-remove");
  #body = find("#aliases");
  #aliases = null; // As the models: null until they are known.
  #models = null; // By name, as far as anybody offers them.
  #shown = "";
  #removing = null;
  #timer = null;

  constructor() {
    find("#new-alias").addEventListener("click", () => this.#dialog.open(null));
    find("#cancel-removal").addEventListener("click", () => this.#confirm.close());
    find("#confirm-removal").addEventListener("click", () => this.#remove());
    document.addEventListener("visibilitychange", () => document.hidden || this.refresh());
  }

  /** What is registered; the page asks for it anyway. */
  showModels(models) {
    this.#models = new Map(models.map((model) => [model.model_name, model]));
    this.#dialog.models = [...this.#models.keys()];
    this.#show();
  }

  async refresh() {
    clearTimeout(this.#timer);
    try {
      this.#aliases = (await call("GET", "/admin/aliases")).aliases;
      this.#dialog.aliases = this.#aliases;
      this.#show();
    } catch (error) {
      if (error.status !== 0 && error.status !== 401) {
        toastError(error);
      }
    } finally {
      find("#aliases-card").removeAttribute("aria-busy");
    }
    clearTimeout(this.#timer); // Another may have asked meanwhile.
    this.#timer = setTimeout(() => document.hidden || this.refresh(), ASK_AGAIN_MS);
  }

  #show() {
    if (this.#aliases === null || this.#models === null) {
      return;
    }
    const shown = JSON.stringify([this.#aliases, this.#aliases.map(({ models }) => models.map((name) => this.#health(name)))]);
    if (this.#shown === shown) {
      return; // Nothing changed: focus and selection stay.
    }
    this.#shown = shown;
    const focused = this.#body.contains(document.activeElement) ? document.activeElement : null;
    const name = focused?.closest("tr").dataset.name;
    this.#body.replaceChildren(...this.#aliases.map((alias) => this.#row(alias)));
    if (focused !== null) {
      const row = [...this.#body.children].find((element) => element.dataset.name === name);
      (row?.querySelector(`[data-action="${focused.dataset.action}"]`) ?? find("#new-alias")).focus({ preventScroll: true });
    }
    setHidden(find("#aliases-table"), this.#aliases.length === 0);
    setHidden(find("#no-aliases"), this.#aliases.length > 0);
  }

  #row(alias) {
    const button = (action, label, onclick) => build("button", { type: "button", class: "quiet", "aria-label": `${label} the alias ${alias.name}`, dataset: { action }, onclick }, label);
    return build(
      "tr",
      { dataset: { name: alias.name } },
      build("td", { class: "model" }, build("span", { class: "model-name" }, alias.name), this.#remark(alias)),
      build("td", {}, build("ol", { class: "stand-ins" }, ...alias.models.map((name) => this.#target(name)))),
      build("td", { class: "number" }, build("span", { class: "actions" }, button("change", "Change", () => this.#dialog.open(alias)), button("remove", "Remove", () => this.#ask(alias)))),
    );
  }

  /** What else the name is: a model, which is asked itself or is not. */
  #remark({ name, models }) {
    const place = models.indexOf(name);
    if (place < 0 && !this.#models.has(name)) {
      return null;
    }
    const text = place < 0 ? "the model of this name is not asked" : place ? "a model, and what goes before it" : "a model, and what stands in for it";
    return build("small", { class: "under muted" }, text);
  }

  #target(name) {
    const { text, well } = this.#health(name);
    return build("li", {}, build("span", { class: "model-name" }, name), " ", build("span", { class: well ? "muted" : "error" }, text));
  }

  #health(name) {
    const model = this.#models.get(name);
    return model === undefined ? { text: "nobody offers it", well: false } : { text: standing(model), well: model.healthy_servers > 0 };
  }

  #ask(alias) {
    this.#removing = alias;
    const { name } = alias;
    setText(find("#remove-title"), `Remove the alias ${name}?`);
    setText(find("#remove-meaning"), this.#models.has(name) ? `From the next request on, ${name} is the model of that name again, and nothing stands in for it.` : `From the next request on, who asks for ${name} is told that there is no such model.`);
    this.#confirm.showModal();
  }

  #remove() {
    whileBusy(find("#confirm-removal"), async () => {
      const { name } = this.#removing;
      try {
        await call("DELETE", `/admin/aliases/${encodeURIComponent(name)}`);
        toast(`The alias ${name} is removed.`);
      } catch (error) {
        toastError(error); // Somebody else removed it, perhaps: the list shows it.
      }
      this.#confirm.close();
      await this.refresh();
    });
  }
}

/** For the admin only: nobody else has the elements. */
export function startAliases() {
  const aliases = new Aliases();
  aliases.refresh();
  return aliases;
}
