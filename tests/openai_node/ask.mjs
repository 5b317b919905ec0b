// Makes calls with OpenAI's library, with its default settings: one for each line of JSON on standard input,
// {baseURL, apiKey, call: ["chat", "completions", "create"], with: [...], leaveAfter?: events}. Prints what comes of it,
// a line of JSON each: {"answer"}, or {"event"} for each event of a stream; at last {"error"} or {"end"}.
// Usage: node ask.mjs URL_OF_THE_LIBRARY

import readline from "node:readline";

const { default: OpenAI } = await import(process.argv[2]);

const print = (line) => process.stdout.write(JSON.stringify(line) + "\n");

async function readStream(stream, leaveAfter) {
  let read = 0;
  for await (const event of stream) {
    print({ event });
    read += 1;
    if (read === leaveAfter) break;
  }
}

async function readPages(pages) {
  const data = [];
  for await (const item of pages) data.push(item);
  return { data };
}

async function make(told) {
  let resource = new OpenAI({ baseURL: told.baseURL, apiKey: told.apiKey });
  for (const name of told.call.slice(0, -1)) resource = resource[name];
  const pending = resource[told.call.at(-1)](...told.with);
  if (told.call.at(-1) === "list") {
    print({ answer: await readPages(pending) });
    return;
  }
  const { data, request_id: requestId } = await pending.withResponse();
  if (typeof data[Symbol.asyncIterator] === "function") await readStream(data, told.leaveAfter);
  else print({ answer: data, requestId });
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  try {
    await make(JSON.parse(line));
    print({ end: true });
  } catch (error) {
    const { status, code, type, param, message, requestID: requestId } = error;
    print({ error: { kind: error.constructor.name, status, code, type, param, message, requestId } });
  }
}
