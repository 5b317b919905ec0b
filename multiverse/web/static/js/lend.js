// Lending the machine on which this browser runs: the gateway looks at the address from which it is asked.

import { call } from "./api.js";
import { build, codeBlock, find, setHidden, setText } from "./dom.js";
import { Fields, listOf } from "./fields.js";
import { lendLine } from "./snippets.js";
import { verdictChip } from "./verdicts.js";

const LAST_PORT = 65535;
const MOST_PORTS = 8;

function ports(text) {
  const given = listOf(text);
  if (given.length > MOST_PORTS) {
    return `At most ${MOST_PORTS} ports.`;
  }
  return given.every((port) => /^\d{1,5}$/.test(port) && port >= 1 && port <= LAST_PORT) ? "" : "Numbers of ports, such as 11434.";
}

function line({ registration_id: id, model_name: model, health_status: verdict, reason }) {
  const said = reason === null ? null : build("span", { class: "whole muted" }, reason);
  return build("li", {}, build("a", { class: "model-name", href: `/servers/${id}` }, model), verdictChip(verdict), said);
}

function refusedLine({ model_name: model, reason }) {
  return build("li", {}, build("span", { class: "model-name" }, model), build("span", { class: "whole muted" }, `Not registered: ${reason}`));
}

function showLent({ message, servers, not_registered: refused }) {
  const note = find("#lent-message");
  setText(note, message);
  note.className = `note ${servers.length ? "good" : "bad"}`;
  find("#lent-servers").replaceChildren(...servers.map(line), ...refused.map(refusedLine));
  setHidden(find("#lent"), false);
  find("#lent").focus();
}

/** The card in which one lends this computer. */
export function startLending() {
  const fields = new Fields(find("#lend-form"), { ports });
  find("#lend-line").append(codeBlock(lendLine("$MULTIVERSE_API_KEY")));
  fields.whenSent(() => {
    setHidden(find("#lent"), true);
    const given = listOf(fields.text("ports")).map(Number);
    return call("POST", "/admin/lend", given.length ? { ports: given } : {}).then(showLent);
  });
}
