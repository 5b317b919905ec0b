// The thanks board: who has lent how much, by name where they asked for it.

import { call } from "./api.js";
import { build, find, setHidden, setText } from "./dom.js";
import { compact, plural } from "./format.js";
import { startFrame } from "./frame.js";
import { toastError } from "./toasts.js";
import { shareBar } from "./usage_report.js";

startFrame();

function line(person, most) {
  return build(
    "li",
    { dataset: { you: person.you } },
    build("span", { class: "model-name" }, person.name, person.you ? build("span", { class: "muted" }, " (you)") : null),
    build("span", { class: "given" }, build("strong", {}, compact(person.tokens_given)), " tokens"),
    build("span", { class: "muted" }, plural(person.requests_given, "request")),
    shareBar(person.tokens_given, most),
  );
}

async function load() {
  try {
    const { people, others, tokens_given: tokens, requests_given: requests } = await call("GET", "/v1/thanks");
    if (tokens) {
      setText(find("#lead"), `Every answer here comes from a machine that somebody lends: ${compact(tokens)} tokens in ${plural(requests, "request")} so far. Thank you!`);
    }
    find("#people").replaceChildren(...people.map((person) => line(person, people[0].tokens_given)));
    setHidden(find("#people"), people.length === 0);
    setText(find("#nobody"), tokens ? "None of the lenders has asked to be thanked by name yet." : "Nothing has been lent to others yet. Whoever registers a server and wants to be thanked by name says so in their account, and stands here.");
    setHidden(find("#nobody"), people.length > 0);
    setText(find("#others"), `${people.length ? "And " : ""}${compact(others.tokens_given)} tokens from ${plural(others.people, "lender")} not named here.`);
    setHidden(find("#others"), others.people === 0);
  } catch (error) {
    if (error.status === 401) {
      setText(find("#nobody"), error.message);
      setHidden(find("#nobody"), false);
    } else {
      toastError(error);
    }
  } finally {
    find("#board-card").removeAttribute("aria-busy");
  }
}

load();
