// From the code on the blackboard to a key of one's own, what to do with it, and a session. The key is kept nowhere.

import { call, send } from "./api.js";
import { codeBlock, find, setHidden, setText, whileBusy } from "./dom.js";
import { atMost, email, Fields } from "./fields.js";
import { day } from "./format.js";
import { startFrame } from "./frame.js";
import { greeting, lendLine } from "./snippets.js";
import { snippetTabs } from "./tabs.js";

const CODE_LENGTH = 10;

startFrame();

function letters(text) {
  return text.toUpperCase().replace(/[^A-Z0-9]/g, "");
}

const form = find("#claim-form");
const fields = new Fields(
  form,
  {
    code: (text) => (letters(text).length === CODE_LENGTH ? "" : `A code has ${CODE_LENGTH} letters and digits.`),
    name: atMost(200),
    email,
  },
  { required: ["code", "name"] },
);

/** Behind the # of a link, a code reaches no server and no log; it need not stay in the history either. */
function readCode() {
  const code = letters(location.hash);
  if (code) {
    history.replaceState(null, "", location.pathname);
    fields.input("code").value = code.length === CODE_LENGTH ? `${code.slice(0, 5)}-${code.slice(5)}` : code;
    fields.input("name").focus();
  }
}

async function firstModel(key) {
  const response = await send("GET", "/v1/models", undefined, { headers: { Authorization: `Bearer ${key}` } });
  const { data } = response.ok ? await response.json() : { data: [] };
  return data[0]?.id ?? "NAME-OF-A-MODEL";
}

async function showClaimed(claimed) {
  const may = claimed.role === "student" ? "It asks models, and registers servers of your own." : "It asks models.";
  setText(find("#claimed-title"), `Here is your key, ${claimed.name}`);
  setText(find("#claimed-facts"), claimed.expires_at ? `${may} Valid until ${day(claimed.expires_at)}.` : may);
  find("#claimed-key").replaceChildren(codeBlock(claimed.key, "Copy the key"));
  find("#claimed-base").replaceChildren(codeBlock(`${location.origin}/v1`));
  find("#claimed-lend-line").replaceChildren(codeBlock(lendLine(claimed.key)));
  setHidden(find("#claimed-lending"), claimed.role !== "student");
  setHidden(find("#claim-card"), true);
  const card = find("#claimed-card");
  setHidden(card, false);
  card.focus();
  find("#sign-in-now").addEventListener("click", () => signIn(claimed.key));
  const model = await firstModel(claimed.key).catch(() => "NAME-OF-A-MODEL");
  find("#claimed-snippet").replaceChildren(snippetTabs(() => greeting(model), "Code that calls a model with your key", claimed.key).element);
}

function signIn(key) {
  return whileBusy(find("#sign-in-now"), async () => {
    try {
      await call("POST", "/session", { key });
      location.assign("/account");
    } catch (error) {
      setText(find("#sign-in-error"), error.message);
      setHidden(find("#sign-in-error"), false);
    }
  });
}

fields.whenSent(async () => {
  try {
    await showClaimed(await call("POST", "/claim", { code: fields.text("code"), name: fields.text("name"), email: fields.text("email") || null }));
  } catch (error) {
    if (error.code === "claim_code_not_valid") {
      error.param = "code";
    }
    throw error;
  }
});

readCode();
