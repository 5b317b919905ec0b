// The fields of a registration, and the test of a connection.

import { call } from "./api.js";
import { build, find, setHidden, whileBusy } from "./dom.js";
import { atMost, email, Fields, listOf, modelName, wholeNumber } from "./fields.js";
import { milliseconds, plural } from "./format.js";

export const FIELDS = {
  endpoint_url: "Endpoint URL",
  api_key: "Server's key",
  model_name: "Model name",
  served_model_name: "Served name",
  owner_name: "Owner",
  owner_email: "E-mail",
  context_length: "Context length",
  max_concurrency: "Requests at a time",
  tags: "Tags",
  description: "Description",
  offered_to: "Lent to",
  friends: "Friends",
  quiet_hours: "Quiet hours",
  time_zone: "Time zone",
  daily_token_cap: "Tokens a day",
  reserve_slot: "Reserved slot",
};
export const LISTS = new Set(["tags", "friends"]);
export const SWITCHES = new Set(["reserve_slot"]);

function address(text) {
  if (!/^https?:\/\//i.test(text)) {
    return "It begins with http:// or https://.";
  }
  try {
    const url = new URL(text);
    if (url.username || url.password) {
      return "Leave name and password out of the address; the server's key has its own field.";
    }
    return url.search || url.hash ? "Only the address, without ? or #." : "";
  } catch {
    return "This is not an address a server could have.";
  }
}

function tags(text) {
  const words = listOf(text);
  if (words.length > 20) {
    return "At most 20 tags.";
  }
  return words.some((word) => word.length > 50) ? "A tag has at most 50 characters." : "";
}

function quietHours(text) {
  const time = "([01]?\\d|2[0-3]):[0-5]\\d|24:00";
  const span = new RegExp(`^(${time})\\s*[-–]\\s*(${time})$`);
  return text.split(",").every((part) => span.test(part.trim())) ? "" : "Times of the day such as 22:00-07:00.";
}

function timeZone(text) {
  try {
    new Intl.DateTimeFormat("en", { timeZone: text });
    return "";
  } catch {
    return "There is no such time zone; one is Europe/Berlin.";
  }
}

/** The time zone of this browser, where it tells. */
function zoneHere() {
  return Intl.DateTimeFormat().resolvedOptions().timeZone ?? "";
}

const RULES = {
  endpoint_url: address,
  model_name: modelName,
  api_key: (text) => (/^[!-~]{1,500}$/.test(text) ? "" : "Printable characters without spaces, at most 500."),
  owner_email: email,
  owner_name: atMost(200),
  served_model_name: atMost(500),
  description: atMost(2000),
  context_length: wholeNumber,
  max_concurrency: wholeNumber,
  daily_token_cap: wholeNumber,
  quiet_hours: quietHours,
  time_zone: timeZone,
  tags,
};
const REQUIRED = new Set(["endpoint_url", "model_name"]);
const NUMBERS = new Set(["context_length", "max_concurrency", "daily_token_cap"]);

export class ServerForm extends Fields {
  constructor(form, { onInput = () => {}, registrationId = null } = {}) {
    // In the order in which they stand in the form: the first that is wrong gets the focus.
    super(form, Object.fromEntries(Object.keys(FIELDS).map((name) => [name, RULES[name]])), { required: REQUIRED, onInput });
    this.registrationId = registrationId;
    find("#time-zones", form).replaceChildren(...(Intl.supportedValuesOf?.("timeZone") ?? []).map((zone) => build("option", { value: zone })));
    this.input("quiet_hours").addEventListener("change", () => {
      if (this.text("quiet_hours") && !this.text("time_zone")) {
        this.input("time_zone").value = zoneHere();
        this.input("time_zone").dispatchEvent(new Event("input", { bubbles: true }));
      }
    });
    const button = find("#test-connection", form);
    button.addEventListener("click", () => whileBusy(button, () => this.#testConnection()));
  }

  /** The field's value as the API takes it: a number, a list, a text, or null. */
  value(name) {
    const text = this.text(name);
    if (LISTS.has(name)) {
      return listOf(text);
    }
    if (SWITCHES.has(name)) {
      return text === "yes";
    }
    if (text === "") {
      return null;
    }
    return NUMBERS.has(name) ? Number(text) : text;
  }

  clearComplaints() {
    super.clearComplaints();
    find("#test-result", this.form).replaceChildren();
  }

  async #testConnection() {
    const place = find("#test-result", this.form);
    place.replaceChildren();
    this.touch("endpoint_url");
    if (!this.judge("endpoint_url") || (this.text("api_key") && !this.judge("api_key"))) {
      this.form.querySelector('[aria-invalid="true"]')?.focus();
      return;
    }
    const waiting = find("#test-waiting", this.form);
    setHidden(waiting, false);
    try {
      const found = await call("POST", "/admin/probe", {
        endpoint_url: this.text("endpoint_url"),
        api_key: this.value("api_key"),
        registration_id: this.registrationId,
      });
      this.#showFound(place, found);
    } catch (error) {
      if (error.param in FIELDS) {
        this.showFailure(error);
      } else {
        place.replaceChildren(build("p", { class: "note bad" }, error.message));
      }
    } finally {
      setHidden(waiting, true);
    }
  }

  #showFound(place, { ok, reason, response_time_ms: responseTime, models }) {
    if (!ok) {
      place.replaceChildren(build("p", { class: "note bad" }, `It does not work yet: ${reason}`));
      return;
    }
    const told = models.length ? `It offers ${plural(models.length, "model")}:` : "It lists no models; type the name it knows.";
    place.replaceChildren(build("p", { class: "note good" }, `The server answers, in ${milliseconds(responseTime)}. ${told}`));
    find("#served-models", this.form).replaceChildren(...models.map((name) => build("option", { value: name })));
    const pick = (name) => {
      const allowed = RULES.model_name(name) === "";
      this.input("model_name").value = allowed ? name : name.replace(/[^A-Za-z0-9._\-:/@+]+/g, "-").slice(0, 200);
      this.input("served_model_name").value = allowed ? "" : name;
      this.judge("model_name");
      this.input("model_name").dispatchEvent(new Event("input", { bubbles: true }));
    };
    if (models.length) {
      const buttons = models.slice(0, 30).map((name) => build("button", { type: "button", class: "quiet", onclick: () => pick(name) }, name));
      place.append(build("div", { class: "actions", role: "group", "aria-label": "Models of this server" }, ...buttons));
      if (models.length === 1 && this.text("model_name") === "") {
        pick(models[0]);
      }
    }
  }
}
