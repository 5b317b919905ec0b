// What happened to one request: in short, where its time went, and one thing after the other.

import { ApiError, call, isAdmin, mayAsk } from "./api.js";
import { build, find, setHidden, setText } from "./dom.js";
import { count, exactTime, milliseconds, NOTHING } from "./format.js";
import { startFrame } from "./frame.js";
import { live } from "./live.js";
import { outcomeChip, phasesBar, phasesLegend } from "./stories.js";

startFrame();

const requestId = location.pathname.replace(/^\/requests\//, "");
const links = [];
let servers = new Map();

function showFacts(story) {
  const shown = {
    Request: build("code", {}, story.request_id),
    When: build("time", { datetime: story.started_at }, exactTime(story.started_at)),
    Whose: story.key_name,
    Model: story.model,
    Route: build("code", {}, story.route),
    Outcome: outcomeChip(story),
    "Answered with": story.code ? `${story.status} ${story.code}` : String(story.status),
    "Servers tried": count(story.attempts),
    "Tokens in / out": `${story.tokens_estimated ? "about " : ""}${count(story.prompt_tokens)} / ${count(story.completion_tokens)}`,
    "First token after": milliseconds(story.first_token_ms),
    "Over after": milliseconds(story.total_ms),
    "Gateway's own part": story.overhead_ms === null ? NOTHING : milliseconds(story.overhead_ms),
  };
  find("#facts").replaceChildren(...Object.entries(shown).map(([name, value]) => build("div", {}, build("dt", {}, name), build("dd", {}, value))));
}

function serverLink(registrationId) {
  const name = `server ${registrationId.slice(0, 8)}`;
  if (!isAdmin) {
    return build("span", { class: "muted", title: registrationId }, name);
  }
  const link = build("a", { href: `/servers/${registrationId}`, title: registrationId }, name);
  links.push([registrationId, link]);
  return link;
}

function line(event) {
  const bad = event.event === "failed" || (event.event === "ended" && event.outcome !== "ok");
  return build(
    "li",
    { dataset: { event: event.event, bad: String(bad) } },
    build("span", { class: "at" }, event.at_ms === 0 ? "at once" : `after ${milliseconds(event.at_ms)}`),
    build("span", { class: "what" }, event.text, event.event === "tried" ? " " : "", event.event === "tried" ? serverLink(event.server) : null),
  );
}

function show(story) {
  setText(find("#summary"), story.summary);
  const bar = phasesBar(story.time);
  find("#phases").replaceChildren(bar, build("p", { class: "legend" }, ...phasesLegend(story.time)));
  showFacts(story);
  find("#events").replaceChildren(...story.events.map(line));
  nameServers();
  setHidden(find("#story"), false);
}

function nameServers() {
  for (const [registrationId, link] of links) {
    const server = servers.get(registrationId);
    if (server) {
      setText(link, server.owner_name ?? new URL(server.endpoint_url).host);
    }
  }
}

async function load() {
  try {
    if (!mayAsk) {
      throw new ApiError("This gateway asks for a key: sign in with the one that sent the request.");
    }
    show(await call("GET", `/v1/requests/${requestId}`));
  } catch (error) {
    setText(find("#missing"), error.message);
    setHidden(find("#missing"), false);
  } finally {
    setHidden(find("#loading"), true);
  }
}

if (isAdmin) {
  find("#records").href = `/logs?request_id=${encodeURIComponent(requestId)}`;
  live.on("servers", (news) => {
    servers = news.servers;
    nameServers();
  });
}
load();
