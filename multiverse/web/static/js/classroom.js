// The classroom: pretend servers that can be made slow, busy, broken or lying, for some minutes. Hidden without any.

import { call } from "./api.js";
import { build, find, setHidden, setText } from "./dom.js";
import { toast, toastError } from "./toasts.js";

const LOOK_MS = 5000;
const MINUTES = [1, 2, 5, 15];
const USUAL_MINUTES = 2;

class Pupil {
  constructor({ registration_id: id, name }, moods) {
    this.id = id;
    this.mood = build("select", { "aria-label": `What ${name} does` }, ...Object.keys(moods).map((mood) => build("option", {}, mood)));
    this.minutes = build("select", { "aria-label": `For how long ${name} does it` });
    for (const count of MINUTES) {
      this.minutes.append(build("option", { value: count, selected: count === USUAL_MINUTES }, `${count} min`));
    }
    this.state = build("small", { class: "muted", role: "status" });
    this.mood.addEventListener("change", () => this.#apply());
    const link = build("a", { href: `/servers/${id}` }, name);
    this.element = build("li", { dataset: { id } }, link, this.mood, this.minutes, this.state);
    this.moods = moods;
  }

  show({ mood, seconds_left: left }) {
    if (document.activeElement !== this.mood) {
      this.mood.value = mood;
    }
    this.mood.title = this.moods[mood];
    setText(this.state, left > 0 ? `${mood} for another ${Math.ceil(left)} s` : "");
  }

  async #apply() {
    try {
      const changed = await call("PUT", `/admin/classroom/${this.id}`, { mood: this.mood.value, minutes: Number(this.minutes.value) });
      this.mood.blur();
      this.show(changed);
      toast(this.moods[changed.mood]);
    } catch (error) {
      toastError(error);
    }
  }
}

/** Shows the classroom if there is one, and keeps it up to date. */
export async function startClassroom() {
  const pupils = new Map();
  const look = async () => {
    const { servers, moods } = await call("GET", "/admin/classroom");
    for (const server of servers) {
      if (!pupils.has(server.registration_id)) {
        const pupil = new Pupil(server, moods);
        pupils.set(server.registration_id, pupil);
        find("#pupils").append(pupil.element);
      }
      pupils.get(server.registration_id).show(server);
    }
    setHidden(find("#classroom"), servers.length === 0);
    return servers.length > 0;
  };
  try {
    if (await look()) {
      setInterval(() => document.hidden || look().catch(() => undefined), LOOK_MS);
    }
  } catch (error) {
    if (error.status !== 0 && error.status !== 401) {
      toastError(error);
    }
  }
}
