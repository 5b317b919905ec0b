// Registering a server, from its address to the code that calls it.

import { call } from "./api.js";
import { build, copyButton, find, setHidden, setText } from "./dom.js";
import { startFrame } from "./frame.js";
import { startLending } from "./lend.js";
import { FIELDS, ServerForm } from "./server_form.js";
import { greeting } from "./snippets.js";
import { snippetTabs } from "./tabs.js";
import { toast } from "./toasts.js";

startFrame();
startLending();

const form = find("#register-form");
const fields = new ServerForm(form);

function body() {
  const given = Object.keys(FIELDS).map((name) => [name, fields.value(name)]);
  return Object.fromEntries(given.filter(([, value]) => value !== null && value.length !== 0));
}

function showDone(server) {
  const healthy = server.health_status === "healthy";
  const message = find("#done-message");
  setText(message, healthy ? "The server is healthy and takes requests from now on." : server.message);
  message.className = `note ${healthy ? "good" : "unsure"}`;
  const id = build("code", {}, server.registration_id);
  find("#registration-id").replaceChildren(id, " ", copyButton(() => server.registration_id, "Copy the id"));
  find("#done-snippet").replaceChildren(snippetTabs(() => greeting(server.model_name), "Code that calls this model").element);
  find("#open-server").href = `/servers/${server.registration_id}`;
  find("#try-model").href = `/playground?model=${encodeURIComponent(server.model_name)}`;
  setHidden(find("#form-card"), true);
  const card = find("#done-card");
  setHidden(card, false);
  card.focus();
  toast(server.message, healthy ? "success" : "warning");
}

fields.whenSent(async () => showDone(await call("POST", "/admin/register", body())));

find("#register-another").addEventListener("click", () => {
  form.reset();
  fields.clearComplaints();
  setHidden(find("#done-card"), true);
  setHidden(find("#form-card"), false);
  fields.input("endpoint_url").focus();
});
