// Calls of the gateway's own JSON API. What goes wrong becomes an ApiError whose text a person can act on.

export class ApiError extends Error {
  constructor(message, { status = 0, code = "", param = null, requestId = "", retryAfterSeconds = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
    this.requestId = requestId;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

export const isAdmin = document.body.dataset.role === "admin";
/** Whether this visitor may have servers, the own ones at least. */
export const mayOwnServers = isAdmin || document.body.dataset.role === "student";
export const isSignedIn = document.body.dataset.role !== "anonymous";
/** Whether `/v1` answers this visitor; asking in vain would be an error in the browser's console. */
export const mayAsk = document.body.dataset.mayAsk === "yes";
const MODELS = "/v1/models";
const ENDED = "Your session has ended. Sign in again: in another tab, if what stands here shall stay.";
const UNREACHABLE = "The gateway cannot be reached. It may be restarting, or this device is offline.";

function tell(reachable) {
  window.dispatchEvent(new CustomEvent("reachable", { detail: reachable }));
}

/** The answer's JSON. Raises ApiError; AbortError when `signal` ends it. */
export async function call(method, path, body = undefined, { signal } = {}) {
  if (path.startsWith("/v1/") && !mayAsk) {
    throw new ApiError("This gateway asks for a key: sign in with yours.", { status: 401, code: "invalid_api_key" });
  }
  const response = await send(method, path, body, { signal });
  if (!response.ok) {
    throw await errorOf(response);
  }
  const answer = await response.json();
  if (path === MODELS) {
    window.dispatchEvent(new CustomEvent("offered", { detail: answer.data }));
  }
  return answer;
}

/** The response itself, for streams. Raises ApiError only when there is none. */
export async function send(method, path, body = undefined, { signal, headers = {} } = {}) {
  const options = { method, headers: { Accept: "application/json", ...headers }, signal, cache: "no-store" };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") {
      throw error;
    }
    tell(false);
    throw new ApiError(UNREACHABLE, { code: "unreachable" });
  }
  tell(true);
  return response;
}

/** What a failed response says, in words. */
export async function errorOf(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // A proxy in between answered with a page of its own.
  }
  const retryAfterSeconds = Number(response.headers.get("Retry-After")) || null;
  let message = error.message ?? `The answer was ${response.status} ${response.statusText}, without an explanation.`;
  if (response.status === 429 && retryAfterSeconds) {
    message += ` (${retryAfterSeconds} s)`;
  }
  if (response.status === 401 && isSignedIn && new URL(response.url).pathname !== "/session") {
    message = ENDED;
    window.dispatchEvent(new Event("sessionend"));
  }
  return new ApiError(message, {
    status: response.status,
    code: error.code ?? "",
    param: error.param ?? null,
    requestId: response.headers.get("X-Request-ID") ?? "",
    retryAfterSeconds,
  });
}
