// What is on offer, as `/v1/models` tells everybody; asked again every few seconds.

import { call } from "./api.js";
import { build, setText } from "./dom.js";
import { count, plural } from "./format.js";

const ASK_AGAIN_MS = 10_000;

/** How many of its servers are well, and which model it is in truth when its name is an alias. */
export function standing({ servers, healthy_servers: healthy, alias_of: model }) {
  const well = `${count(healthy)} of ${plural(servers, "server")} healthy`;
  return model ? `stands for ${model} · ${well}` : well;
}

function line(model) {
  return build(
    "li",
    {},
    build("span", { class: "model-name" }, model.id),
    build("span", { class: "muted" }, standing(model)),
    build("a", { href: `/playground?model=${encodeURIComponent(model.id)}` }, "Try it"),
  );
}

function show(place, summary, models) {
  setText(summary, plural(models.length, "model"));
  place.removeAttribute("aria-busy");
  const shown = JSON.stringify(models);
  if (place.dataset.shown === shown) {
    return; // Nothing changed: focus and selection stay.
  }
  place.dataset.shown = shown;
  if (models.length === 0) {
    place.replaceChildren(build("p", { class: "empty" }, "Nothing is on offer right now. As soon as somebody registers a server that is well, its model is here."));
  } else {
    place.replaceChildren(build("ul", { class: "offer" }, ...models.map(line)));
  }
}

/** Shows the models in `place` and goes on doing so; what goes wrong is said there. */
export async function showOffer(place, summary) {
  try {
    const { data } = await call("GET", "/v1/models");
    show(place, summary, data);
  } catch (error) {
    place.removeAttribute("aria-busy");
    if (!("shown" in place.dataset)) {
      place.replaceChildren(build("p", { class: "note bad" }, error.message));
    }
  }
  setTimeout(() => showOffer(place, summary), ASK_AGAIN_MS);
}
