// The playground: a conversation with a model, on the real route and in full view of what happens.

import { call, isAdmin } from "./api.js";
import { chat, Measured } from "./chat.js";
import { build, find, setHidden, setText } from "./dom.js";
import { count, milliseconds, NOTHING, plural } from "./format.js";
import { startFrame } from "./frame.js";
import { live } from "./live.js";
import { storyPath, withStoryLink } from "./stories.js";
import { snippetTabs } from "./tabs.js";
import { toastError } from "./toasts.js";

const ASK_AGAIN_MS = 10_000;
const KEPT = "conversation";
const SHOW_MS = 200;
const KEPT_OPTIONS = ["system", "temperature", "max_tokens"];

startFrame({ listsModels: true });

const options = find("#options");
const list = find("#conversation");
const prompt = find("#prompt");
const modelField = find("#model");
const names = new Map();
let shownLast = [new Measured(), "nothing asked yet"];
let messages = [];
let aborter = null;
let exported = null;

// -- what is asked

function number(name, judge, complaint) {
  const text = options.elements[name].value.trim();
  const value = Number(text);
  const wrong = text !== "" && !judge(value);
  const place = find(`#${name}-error`);
  setText(place, wrong ? complaint : "");
  setHidden(place, !wrong);
  if (wrong) {
    options.elements[name].setAttribute("aria-invalid", "true");
  } else {
    options.elements[name].removeAttribute("aria-invalid");
  }
  return { wrong, value: text === "" ? undefined : value };
}

const temperature = () => number("temperature", (value) => value >= 0 && value <= 2, "From 0 to 2.");
const maxTokens = () => number("max_tokens", (value) => Number.isInteger(value) && value >= 1, "A whole number of at least 1.");

function bodyFor(said) {
  const system = options.elements.system.value.trim();
  const body = {
    model: modelField.value,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...said.map(({ role, content }) => ({ role, content }))],
    temperature: temperature().value,
    max_tokens: maxTokens().value,
  };
  if (options.elements.stream.checked) {
    body.stream = true;
    body.stream_options = { include_usage: true };
  }
  return JSON.parse(JSON.stringify(body)); // Leaves out what is undefined.
}

// -- the conversation

function addMessage(role, content) {
  list.querySelector(".hint")?.remove();
  const text = build("span", {}, content);
  const element = build("li", { dataset: { role } }, text);
  list.append(element);
  return { element, text };
}

function keep() {
  try {
    const typed = Object.fromEntries(KEPT_OPTIONS.map((name) => [name, options.elements[name].value]));
    const stream = options.elements.stream.checked;
    sessionStorage.setItem(KEPT, JSON.stringify({ messages, model: modelField.value, prompt: prompt.value, stream, ...typed }));
  } catch {
    // Lost at the next reload, then.
  }
}

function restore() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "{}");
    messages = kept.messages ?? [];
    prompt.value = kept.prompt ?? "";
    options.elements.stream.checked = kept.stream ?? true;
    for (const name of KEPT_OPTIONS) {
      options.elements[name].value = kept[name] ?? "";
    }
    for (const { role, content } of messages) {
      addMessage(role, content);
    }
    return kept.model ?? "";
  } catch {
    messages = [];
    return "";
  }
}

function remark(element, ...parts) {
  element.append(build("small", { class: "remark" }, ...parts));
}

// -- what was measured

function showNumbers(measured, state) {
  shownLast = [measured, state];
  const usage = measured.usage;
  const rate = measured.tokensPerSecond;
  const server = measured.server ? (names.get(measured.server) ?? measured.server) : NOTHING;
  const shown = {
    State: state,
    Server: isAdmin && measured.server ? { text: server, href: `/servers/${measured.server}` } : server,
    Attempts: measured.attempts ?? NOTHING,
    "First token": milliseconds(measured.firstTokenMs),
    "Tokens per second": rate === null ? NOTHING : rate.toFixed(1),
    Time: milliseconds(measured.totalMs ?? (aborter === null ? null : performance.now() - measured.started)),
    "Tokens in / out": usage ? `${count(usage.prompt_tokens)} / ${count(usage.completion_tokens)}` : measured.chunks ? `– / ${plural(measured.chunks, "piece")}` : NOTHING,
    "Ended because": measured.finishReason ?? NOTHING,
    "Request id": measured.requestId ? { text: build("code", {}, measured.requestId), href: storyPath(measured.requestId) } : NOTHING,
  };
  for (const [name, value] of Object.entries(shown)) {
    showNumber(name, value);
  }
}

/** A text or a link, in its place; a link that is made anew five times a second can be neither clicked nor focused. */
function showNumber(name, value) {
  let place = document.querySelector(`#numbers dd[data-name="${name}"]`);
  if (place === null) {
    place = build("dd", { dataset: { name } });
    find("#numbers").append(build("dt", {}, name), place);
  }
  const { text = value, href = null } = value;
  const told = `${text.textContent ?? text} ${href}`;
  if (place.dataset.told !== told) {
    place.dataset.told = told;
    place.replaceChildren(href === null ? text : build("a", { href }, text));
  }
}

// -- sending and stopping

function setRunning(running) {
  setHidden(find("#stop"), !running);
  find("#send").disabled = running;
  list.setAttribute("aria-busy", String(running));
}

function nearEnd() {
  return window.innerHeight + window.scrollY > document.body.scrollHeight - 160;
}

async function answer() {
  const conversation = messages;
  const { element, text } = addMessage("assistant", "");
  element.dataset.state = "streaming";
  const measured = new Measured();
  aborter = new AbortController();
  setRunning(true);
  const showProgress = () => showNumbers(measured, measured.firstTokenMs === null ? "waiting" : "streaming");
  const timer = setInterval(showProgress, SHOW_MS);
  showProgress();
  let state = "complete";
  try {
    await chat(bodyFor(messages), {
      signal: aborter.signal,
      measured,
      onText: (piece) => {
        const follow = nearEnd();
        text.append(piece);
        if (follow) {
          element.scrollIntoView({ block: "end" });
        }
      },
    });
  } catch (error) {
    state = error.name === "AbortError" ? "stopped" : "failed";
    if (error.name === "AbortError") {
      remark(element, "Stopped. The server was told at once.");
    } else {
      element.dataset.state = "failed";
      remark(element, ...withStoryLink(error.message, error.requestId));
    }
  } finally {
    clearInterval(timer);
    aborter = null;
    setRunning(false);
  }
  if (element.dataset.state === "streaming") {
    delete element.dataset.state;
  }
  if (text.textContent) {
    conversation.push({ role: "assistant", content: text.textContent }); // Nobody's, where a new one has begun meanwhile.
  } else if (state === "failed" && conversation === messages) {
    prompt.value ||= messages.at(-1).content; // To be sent again, or changed.
  }
  keep();
  showNumbers(measured, state);
  exported?.refresh();
}

async function say() {
  const content = prompt.value.trim();
  if (aborter !== null) {
    return;
  }
  if (temperature().wrong || maxTokens().wrong) {
    options.querySelector('[aria-invalid="true"]').focus();
    return;
  }
  if (!modelField.value) {
    modelField.focus();
    return;
  }
  if (!content) {
    prompt.focus();
    return;
  }
  if (messages.at(-1)?.role === "user") {
    messages.pop(); // It was never answered; two in a row confuse some models.
  }
  messages.push({ role: "user", content });
  prompt.value = "";
  keep();
  addMessage("user", content).element.scrollIntoView({ block: "nearest" });
  await answer();
  prompt.focus({ preventScroll: true });
}

// -- the models

let offeredBefore = null;

function showModels(offered, wanted) {
  const shown = JSON.stringify(offered);
  if (shown === offeredBefore) {
    return;
  }
  offeredBefore = shown;
  const chosen = modelField.value || wanted;
  const known = offered.some(({ id }) => id === chosen);
  const choices = offered.map(({ id }) => build("option", { value: id }, id));
  if (chosen && !known) {
    choices.push(build("option", { value: chosen }, `${chosen} (not on offer now)`));
  }
  modelField.replaceChildren(...(choices.length ? choices : [build("option", { value: "" }, "no model is on offer")]));
  if (chosen) {
    modelField.value = chosen;
  }
  setText(find("#model-help"), offered.length ? "" : "Nobody offers a model right now.");
  exported?.refresh();
}

async function refreshModels(wanted) {
  try {
    const { data } = await call("GET", "/v1/models");
    showModels(data, wanted);
  } catch (error) {
    if (error.status === 401) {
      setText(find("#model-help"), error.message);
    } else if (error.status !== 0) {
      toastError(error);
    }
  }
  setTimeout(() => refreshModels(wanted), ASK_AGAIN_MS);
}

// -- listening

find("#composer").addEventListener("submit", (event) => {
  event.preventDefault();
  say();
});
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    say();
  }
});
prompt.addEventListener("input", keep);
find("#stop").addEventListener("click", () => {
  aborter?.abort();
  prompt.focus({ preventScroll: true });
});
find("#new-conversation").addEventListener("click", () => {
  aborter?.abort();
  messages = [];
  keep();
  list.replaceChildren(build("li", { class: "hint" }, "Choose a model, and say something."));
  prompt.focus();
});
options.addEventListener("input", () => {
  temperature();
  maxTokens();
  keep();
  exported?.refresh();
});
options.addEventListener("submit", (event) => event.preventDefault());
find("#export").addEventListener("click", () => {
  const unanswered = () => (messages.length ? messages : [{ role: "user", content: prompt.value.trim() || "Hello! How are you?" }]);
  if (exported === null) {
    exported = snippetTabs(() => bodyFor(unanswered()), "The conversation as code");
    find("#export-place").append(exported.element);
  }
  exported.refresh();
  const card = find("#export-card");
  setHidden(card, false);
  card.focus();
  card.scrollIntoView({ block: "nearest" });
});
if (isAdmin) {
  live.on("servers", ({ servers }) => {
    for (const server of servers.values()) {
      names.set(server.registration_id, server.owner_name ?? new URL(server.endpoint_url).host);
    }
    showNumbers(...shownLast);
  });
}

const keptModel = restore();
const wantedModel = new URLSearchParams(location.search).get("model") ?? keptModel;
if (wantedModel) {
  modelField.replaceChildren(build("option", { value: wantedModel }, wantedModel)); // It may be asked before the list has come.
}
showNumbers(...shownLast);
refreshModels(wantedModel);
