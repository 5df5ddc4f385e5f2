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

async function request(method, path, body) {
  const options = { method, credentials: "same-origin", cache: "no-store" };
  if (body !== undefined) {
    options.headers = { "content-type": "application/json" };
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new ApiError(0, "network", "The relay cannot be reached");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

/** One JSON call; `undefined` for an answer without a body. */
export async function call(method, path, body) {
  const response = await request(method, path, body);
  if (response.status === 202 || response.status === 204) return undefined;
  return response.json();
}

export const agentPath = (id, rest = "") => `/api/agents/${encodeURIComponent(id)}${rest}`;
export const mcpPath = (name, rest = "") => `/api/mcp/${encodeURIComponent(name)}${rest}`;
