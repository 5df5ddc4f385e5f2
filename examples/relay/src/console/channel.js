// Asks an agent through an end-to-end channel: one request, one WebSocket, one
// Noise channel. The relay carries the bytes and cannot read them.
import { ApiError, agentPath } from "./api.js";
import { CodeInitiator, Frames, Initiator, NotTheAgent, concat, fields, frame, toBase64url } from "./noise.js";
import { forget, forgetPending, idOf, keep, newKey, newSigningKey, ownName, paired, pending } from "./pairing.js";

let account = "";
/** Says whose agents these are. */
export function setAccount(email) { account = email; }

/** How to reach an agent: as paired, or by a link that waits to be used. There
 * is no other way. */
async function door(agent) {
  const kept = await paired(account, agent);
  if (kept) return { mode: "resume", key: kept.key, agent: kept.agent };
  const link = pending();
  if (link) return { mode: "pair", key: await newKey(), signing: await newSigningKey(), agent: link.agent, secret: link.secret };
  throw new ApiError(0, "not_paired",
    "This browser is not paired with the agent. Run `katachi-agent device pair` on its machine and open the link here.");
}

/** Whether what is typed for this agent is read by the agent alone. */
export const isPaired = async (agent) => !!(await paired(account, agent));

/** By which name the agent knows this browser. */
export async function ownId(agent) {
  const kept = await paired(account, agent);
  return kept ? idOf(kept.key) : null;
}

/** Pairs with the agent if a link waits for it. */
export async function pairIfAsked(agent) {
  if (!pending() || await paired(account, agent)) return;
  await ask(agent, "GET", "/v1/status");
}

/** Pairs with an agent that waits for numbers. `compare` shows three of them
 * and tells whether the person found them at the other end. */
export async function pairByCode(agent, compare, signal) {
  const way = { mode: "code", key: await newKey(), signing: await newSigningKey(), compare };
  await exchange(way, agent, { method: "GET", path: "/v1/status" }, () => {}, signal);
}

/** Says "approve" or "deny" to a start that waits for a person. The signature
 * is over what was shown; the agent compares it with what it asked. */
export async function answerApproval(agent, request, decision) {
  const kept = await paired(account, agent);
  if (!kept?.signing) throw new ApiError(0, "no_key", "This browser has no key to sign with. Pair it again with `katachi-agent device pair`.");
  const { nonce, plan_hash, directory, rule, expires_at, argv } = request;
  const signed = fields("katachi-approval/1", decision, nonce, plan_hash, directory, rule, String(expires_at), ...argv);
  const signature = toBase64url(new Uint8Array(await crypto.subtle.sign("Ed25519", kept.signing.privateKey, signed)));
  await ask(agent, "POST", "/v1/approvals", { request: { nonce, argv, directory, plan_hash, rule, expires_at }, decision, signature });
}

/** Signs an MCP configuration for one agent, which starts no other; `null`
 * where this browser is not paired with it. */
export async function signMcp(agent, name, { command, env, secrets }) {
  const kept = await paired(account, agent);
  if (!kept?.signing) return null;
  const signed_at = Math.floor(Date.now() / 1000);
  const pairs = (map) => [String(Object.keys(map).length), ...Object.keys(map).sort().flatMap((key) => [key, map[key]])];
  const signed = fields("katachi-mcp/1", agent, name, String(signed_at), String(command.length), ...command, ...pairs(env), ...pairs(secrets));
  const signature = toBase64url(new Uint8Array(await crypto.subtle.sign("Ed25519", kept.signing.privateKey, signed)));
  return { device: await idOf(kept.key), signed_at, signature };
}

/** One JSON call to the agent's own API. */
export async function ask(agent, method, path, body) {
  const way = await door(agent);
  const chunks = [];
  await exchange(way, agent, { method, path, body }, (chunk) => chunks.push(chunk));
  const text = new TextDecoder().decode(concat(...chunks));
  return text ? JSON.parse(text) : undefined;
}

/** Calls `onEvent` for each line of a streamed answer, as it comes. */
export async function stream(agent, path, body, onEvent, signal) {
  const way = await door(agent);
  const decoder = new TextDecoder();
  let rest = "";
  await exchange(way, agent, { method: "POST", path, body }, (chunk) => {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line) onEvent(JSON.parse(line));
  }, signal);
  if (rest) onEvent(JSON.parse(rest));
}

async function exchange(way, agent, request, onChunk, signal) {
  const device = await idOf(way.key);
  const id = toBase64url(crypto.getRandomValues(new Uint8Array(16)));
  const binding = { relay: location.origin, account, agent, device, stream: id };
  const query = new URLSearchParams({ mode: way.mode, device, stream: id });
  const carrier = await Carrier.open(`wss://${location.host}${agentPath(agent, "/channel")}?${query}`, signal);
  try {
    const channel = await (way.mode === "code" ? openByCode : openByKey)(way, binding, carrier);
    const message = way.mode === "resume" ? request : { ...request, ...await introduction(way) };
    carrier.send(await channel.send(new TextEncoder().encode(JSON.stringify(message))));
    let status = 0;
    const refusal = [];
    for (;;) {
      const sealed = await carrier.frame("records");
      if (!sealed) throw status ? new ApiError(0, "cut", "The answer was cut off") : notReached(way);
      const { message: piece, closed } = await channel.receive(sealed);
      if (closed && !status) throw new ApiError(0, "cut", "The agent ended the connection without an answer");
      if (closed) break;
      if (!piece) continue;
      if (!status) {
        ({ status } = JSON.parse(new TextDecoder().decode(piece)));
        if (way.mode !== "resume") await enrolled(way, agent);
      } else if (status < 300) {
        onChunk(piece);
      } else {
        refusal.push(piece);
      }
    }
    if (status >= 300) throw refused(status, refusal);
  } finally {
    carrier.close();
  }
}

async function openByKey(way, binding, carrier) {
  const begun = await Initiator.begin({ ...way, binding });
  carrier.send(frame(begun.message));
  const answer = await carrier.soon("handshake");
  if (!answer) throw notReached(way);
  const channel = await begun.finish(answer);
  carrier.send(await channel.confirm());
  return channel;
}

async function openByCode(way, binding, carrier) {
  const begun = await CodeInitiator.begin({ key: way.key, binding });
  carrier.send(frame(begun.message));
  const answer = await carrier.soon("handshake");
  if (!answer) throw new ApiError(0, "not_waiting", "The machine does not wait for numbers. Run `katachi-agent device pair --code` there first.");
  carrier.send(frame(await begun.answer(answer)));
  const sealed = await carrier.soon("records");
  if (!sealed) throw notReached(way);
  const numbers = await begun.reveal(sealed);
  const over = carrier.over.then(() => null);
  const same = await Promise.race([way.compare(numbers), over]);
  if (same === null) throw notReached(way);
  if (!same) throw new ApiError(0, "not_paired", "Nothing was paired.");
  way.agent = begun.agent;
  return begun.channel;
}

/** What a browser says of itself when it pairs. */
async function introduction({ signing }) {
  return signing ? { name: ownName(), signing_key: await idOf(signing) } : { name: ownName() };
}

/** The agent answered inside of the channel, so it holds this browser's key. */
async function enrolled(way, agent) {
  await keep(account, agent, { key: way.key, signing: way.signing, agent: way.agent });
  forgetPending();
}

function refused(status, pieces) {
  let body = {};
  try { body = JSON.parse(new TextDecoder().decode(concat(...pieces))); } catch { /* no reason given */ }
  return new ApiError(status, body.error ?? "unknown", body.message ?? `The agent answered ${status}`);
}

const NOT_REACHED = {
  pair: "The agent does not accept this pairing link; it may be too old or used already. Make another with `katachi-agent device pair`.",
  code: "The machine did not accept the numbers. Look at its terminal before you try again.",
  resume: "The agent does not know this browser any more, or is not the agent it was. Pair again with `katachi-agent device pair`.",
};

function notReached({ mode }) {
  if (mode === "pair") forgetPending();
  return new ApiError(0, "not_paired", NOT_REACHED[mode]);
}

/** Forgets the pairing, so that another link can be used. */
export const unpair = (agent) => forget(account, agent);

/** Longest wait for the agent's part of a handshake, in milliseconds. */
const PATIENCE = 20000;
/** Bytes of one message of the carrier; the relay takes no longer ones. */
const MAX_PIECE = 32 * 1024;
/** Most bytes that wait to be read; a relay that sends faster is not listened to. */
const MOST_WAITING = 64 * 1024 * 1024;

/** A WebSocket whose bytes are read one frame at a time. */
class Carrier {
  #socket;
  #frames = new Frames();
  #queue = [];
  #waiting = 0;
  #wake = () => {};
  #ended = false;
  #fault = null;
  /** Resolves once the carrier has ended. */
  over;

  static async open(address, signal) {
    signal?.throwIfAborted();
    const self = new Carrier();
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    self.#socket = socket;
    await new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = () => reject(new ApiError(0, "offline", "The agent cannot be reached now"));
      // One that is not open yet fails by being closed.
      const late = setTimeout(() => socket.close(), PATIENCE);
      socket.addEventListener("open", () => clearTimeout(late));
      signal?.addEventListener("abort", () => { socket.close(); reject(signal.reason); }, { once: true });
    });
    socket.onmessage = ({ data }) => self.#take(data);
    self.over = new Promise((resolve) => {
      socket.onclose = socket.onerror = () => {
        self.#ended = true;
        self.#wake();
        resolve();
      };
    });
    self.signal = signal;
    signal?.addEventListener("abort", () => self.#wake(), { once: true });
    return self;
  }

  #take(data) {
    if (this.#fault) return;
    const size = data.byteLength ?? Infinity;
    this.#waiting += size;
    if (this.#waiting <= MOST_WAITING) {
      this.#queue.push(new Uint8Array(data));
    } else {
      // Text, which has no place here, or more than anybody reads.
      this.#fault = new NotTheAgent("The relay sent what is no part of a connection to your agent. It was ended.");
      this.#queue = [];
      this.close();
    }
    this.#wake();
  }

  send(bytes) {
    for (let at = 0; at < bytes.length; at += MAX_PIECE) {
      this.#socket.send(bytes.subarray(at, at + MAX_PIECE));
    }
  }

  close() { this.#socket.close(); }

  /** The next frame, which the agent has to send soon. */
  async soon(kind) {
    let late;
    const patience = new Promise((_, reject) => {
      late = setTimeout(() => reject(new ApiError(0, "late", "The agent did not answer in time; try again")), PATIENCE);
    });
    try {
      return await Promise.race([this.frame(kind), patience]);
    } finally {
      clearTimeout(late);
    }
  }

  /** The next frame, or `null` once the carrier has ended. */
  async frame(kind) {
    for (;;) {
      this.signal?.throwIfAborted();
      if (this.#fault) throw this.#fault;
      const found = this.#frames.next(kind);
      if (found) return found;
      if (this.#queue.length) {
        const piece = this.#queue.shift();
        this.#waiting -= piece.length;
        this.#frames.push(piece);
      } else if (this.#ended) {
        return null;
      } else {
        await new Promise((resolve) => { this.#wake = resolve; });
      }
    }
  }
}
