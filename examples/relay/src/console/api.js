// Speaks to the relay. Everything stays on this origin; the session is a
// cookie that this script cannot read.

export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Called when the session has ended. */
export let onSignedOut = () => {};
export function setOnSignedOut(handler) { onSignedOut = handler; }

async function failure(response) {
  let body = {};
  try { body = await response.json(); } catch { /* not from us */ }
  const error = new ApiError(response.status, body.error ?? "unknown",
    body.message ?? `The relay answered ${response.status}`);
  if (response.status === 401 && error.code === "unauthorized") onSignedOut();
  return error;
}

async function request(method, path, body, signal) {
  const options = { method, signal, credentials: "same-origin", cache: "no-store" };
  if (body !== undefined) {
    options.headers = { "content-type": "application/json" };
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "network", "The relay cannot be reached");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

/** One JSON call; `undefined` for an answer without a body. */
export async function call(method, path, body) {
  const response = await request(method, path, body);
  if (response.status === 204) return undefined;
  return response.json();
}

/** Calls `onEvent` for each line of a streamed answer, as it comes. */
export async function stream(path, body, onEvent, signal) {
  const response = await request("POST", path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line) onEvent(JSON.parse(line));
  }
  if (rest) onEvent(JSON.parse(rest));
}

export const agentPath = (id, rest = "") => `/api/agents/${encodeURIComponent(id)}${rest}`;
export const mcpPath = (name, rest = "") => `/api/mcp/${encodeURIComponent(name)}${rest}`;
