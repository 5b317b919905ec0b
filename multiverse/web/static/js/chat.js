// One chat completion on the real route: its events as they come, what was measured, and an end at any moment.

import { ApiError, errorOf, send } from "./api.js";

/** Cuts a stream of bytes into the data of its events (HTML Living Standard, §9.2). */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) {
        return;
      }
      const lines = (rest + value).split(/\r\n|\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) {
          yield line.slice(5).trim();
        }
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

export class Measured {
  constructor() {
    this.started = performance.now();
    this.firstTokenMs = null;
    this.totalMs = null;
    this.chunks = 0;
    this.usage = null;
    this.server = null;
    this.attempts = null;
    this.requestId = null;
    this.finishReason = null;
  }

  noteHead(response) {
    this.server = response.headers.get("X-Gateway-Server-ID");
    this.attempts = response.headers.get("X-Gateway-Attempts");
    this.requestId = response.headers.get("X-Request-ID");
  }

  noteToken() {
    this.chunks += 1;
    this.firstTokenMs ??= performance.now() - this.started;
  }

  noteEnd() {
    this.totalMs = performance.now() - this.started;
  }

  /** Tokens after the first, over the time they took; chunks are counted where the server counts no tokens. */
  get tokensPerSecond() {
    const tokens = this.usage?.completion_tokens ?? this.chunks;
    const until = this.totalMs ?? performance.now() - this.started;
    if (this.firstTokenMs === null || tokens < 2 || until <= this.firstTokenMs) {
      return null;
    }
    return ((tokens - 1) * 1000) / (until - this.firstTokenMs);
  }
}

/** Asks, and calls `onText` for each piece of the answer. Raises ApiError; AbortError when `signal` ended it. */
export async function chat(body, { signal, measured, onText }) {
  try {
    const response = await send("POST", "/v1/chat/completions", body, { signal });
    measured.noteHead(response);
    if (!response.ok) {
      throw await errorOf(response);
    }
    if ((response.headers.get("Content-Type") ?? "").startsWith("text/event-stream")) {
      await readStream(response, measured, onText);
    } else {
      readWhole(await response.json(), measured, onText);
    }
  } catch (error) {
    if (error instanceof TypeError) {
      throw new ApiError("The connection broke before the answer was complete.", { code: "connection_lost", requestId: measured.requestId });
    }
    throw error;
  } finally {
    measured.noteEnd();
  }
}

async function readStream(response, measured, onText) {
  for await (const data of eventsOf(response.body)) {
    if (data === "[DONE]") {
      return;
    }
    const event = JSON.parse(data);
    if (event.error) {
      const { message, code, type } = event.error;
      throw new ApiError(message, { code: code ?? type ?? "error", requestId: measured.requestId });
    }
    measured.usage = event.usage ?? measured.usage;
    const choice = event.choices?.[0];
    measured.finishReason = choice?.finish_reason ?? measured.finishReason;
    const text = choice?.delta?.content ?? choice?.delta?.reasoning_content ?? "";
    if (text) {
      measured.noteToken();
      onText(text);
    }
  }
}

function readWhole(answer, measured, onText) {
  measured.usage = answer.usage ?? null;
  measured.finishReason = answer.choices?.[0]?.finish_reason ?? null;
  onText(answer.choices?.[0]?.message?.content ?? "");
}
