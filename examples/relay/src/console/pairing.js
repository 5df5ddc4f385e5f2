// Which agents this browser is paired with. The keys lie in IndexedDB and can
// be used there, and not read, not even by this page.
import { X25519, fromBase64url, toBase64url } from "./noise.js";

const PENDING = "pairing";

/** Takes the secret of a pairing link out of the address, before anything else
 * sees it. */
export function takeFragment() {
  const found = /^#pair\/1\.([\w-]{43})\.([\w-]{43})$/.exec(location.hash);
  if (!found) return;
  sessionStorage.setItem(PENDING, JSON.stringify({ agent: found[1], secret: found[2] }));
  history.replaceState(null, "", location.pathname + location.search);
}

/** A link that was opened and not used yet. */
export function pending() {
  const text = sessionStorage.getItem(PENDING);
  if (!text) return null;
  const { agent, secret } = JSON.parse(text);
  return { agent: fromBase64url(agent), secret: fromBase64url(secret) };
}

export function forgetPending() { sessionStorage.removeItem(PENDING); }

let opened;
function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("katachi", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("agents");
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

async function store(mode, work) {
  const transaction = (await database()).transaction("agents", mode);
  const request = work(transaction.objectStore("agents"));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

/** What this browser keeps for an agent of an account: its own key pairs and the
 * agent's public key. */
export const paired = (account, agent) => store("readonly", (agents) => agents.get(`${account} ${agent}`));
export const keep = (account, agent, value) => store("readwrite", (agents) => agents.put(value, `${account} ${agent}`));
export const forget = (account, agent) => store("readwrite", (agents) => agents.delete(`${account} ${agent}`));

/** A key that signs approvals; `null` in a browser that has no Ed25519. */
export const newSigningKey = () => crypto.subtle.generateKey("Ed25519", false, ["sign"]).catch(() => null);

export const newKey = () => crypto.subtle.generateKey(X25519, false, ["deriveBits"]);

/** A device is called by its public key; its other key is told in the same way. */
export async function idOf(key) {
  return toBase64url(new Uint8Array(await crypto.subtle.exportKey("raw", key.publicKey)));
}

/** What this browser calls itself. */
export function ownName() {
  const brand = navigator.userAgentData?.brands?.find(({ brand: name }) => !/not/i.test(name))?.brand ?? "Browser";
  return `${brand} on ${navigator.userAgentData?.platform || navigator.platform || "a device"}`;
}
