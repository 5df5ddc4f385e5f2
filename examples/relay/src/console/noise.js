// The Noise Protocol Framework (revision 34) with 25519_AESGCM_SHA256, made of
// WebCrypto alone: the initiator of IKpsk2 (pairing by link), XX (pairing by
// numbers) and IK, and the records of an open channel. Long-lived keys are never
// extractable.

const PROTOCOLS = {
  pair: "Noise_IKpsk2_25519_AESGCM_SHA256",
  code: "Noise_XX_25519_AESGCM_SHA256",
  resume: "Noise_IK_25519_AESGCM_SHA256",
};
const SIZES = [256, 1024, 4096, 16384];
const HEADER = 8;
const MAX_CONTENT = 16384 - HEADER;
const MAX_MESSAGE = 16 * 1024 * 1024;
const TAG = 16;
// As the agent holds itself to: far below the 2^64 - 1 at which Noise ends a
// channel (section 5.1), and so many records under one key.
const MAX_RECORDS = 2n ** 48n;
const RECORDS_PER_KEY = 2 ** 20;
const EMPTY = new Uint8Array(0);
const subtle = crypto.subtle;
const utf8 = new TextEncoder();

export const X25519 = { name: "X25519" };

/** The bytes are not what the agent would have sent here. The channel is over. */
export class NotTheAgent extends Error {}

function altered() {
  throw new NotTheAgent("What arrived is not what your agent sent: something between changed, repeated or left out a part. This connection was ended; you can try again.");
}

export function concat(...parts) {
  const out = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

export function toBase64url(bytes) {
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

export function fromBase64url(text) {
  return Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
}

/** What a channel belongs to. */
export function prologue({ relay, account, agent, device, stream }) {
  return fields("katachi-channel/1", relay, account, agent, device, stream);
}

/** Texts in an encoding that has one reading: each a 32-bit length and its bytes. */
export function fields(...texts) {
  return concat(...texts.flatMap((field) => {
    const bytes = utf8.encode(field);
    const length = new Uint8Array(4);
    new DataView(length.buffer).setUint32(0, bytes.length);
    return [length, bytes];
  }));
}

const sha256 = async (...parts) => new Uint8Array(await subtle.digest("SHA-256", concat(...parts)));

async function hmac(key, ...parts) {
  const imported = await subtle.importKey("raw", key, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  return new Uint8Array(await subtle.sign("HMAC", imported, concat(...parts)));
}

/** Section 4.3: two or three keys out of the chaining key and `input`. */
async function hkdf(chaining, input, count) {
  const secret = await hmac(chaining, input);
  const keys = [await hmac(secret, Uint8Array.of(1))];
  for (let n = 2; n <= count; n += 1) keys.push(await hmac(secret, keys.at(-1), Uint8Array.of(n)));
  return keys;
}

const publicBytes = async (key) => new Uint8Array(await subtle.exportKey("raw", key));
const publicKey = (bytes) => subtle.importKey("raw", bytes, X25519, true, []);

/** A key agreement; a result of zeros, which a bad key forces, is refused. */
async function agree(privateKey, publicKey) {
  const derived = subtle.deriveBits({ ...X25519, public: publicKey }, privateKey, 256);
  const shared = new Uint8Array(await derived.catch(altered));
  if (shared.every((byte) => byte === 0)) altered();
  return shared;
}

/** One direction's key and its counter (section 5.1). */
class CipherState {
  #key;
  #counter = 0n;

  static async of(bytes) {
    const state = new CipherState();
    state.#key = await subtle.importKey("raw", bytes, "AES-GCM", false, ["encrypt", "decrypt"]);
    return state;
  }

  /** What seals the next record; no counter is used twice. */
  #next(associated) {
    if (this.#counter >= MAX_RECORDS) throw new Error("This connection was used up; try again");
    const parameters = CipherState.#parameters(this.#counter, associated);
    this.#counter += 1n;
    return parameters;
  }

  static #parameters(counter, additionalData) {
    const iv = new Uint8Array(12);
    new DataView(iv.buffer).setBigUint64(4, counter);
    return { name: "AES-GCM", iv, additionalData, tagLength: 128 };
  }

  async encrypt(plain, associated = EMPTY) {
    return new Uint8Array(await subtle.encrypt(this.#next(associated), this.#key, plain));
  }

  async decrypt(sealed, associated = EMPTY) {
    const opened = subtle.decrypt(this.#next(associated), this.#key, sealed);
    return new Uint8Array(await opened.catch(altered));
  }

  /** Section 4.2; the counter goes on. */
  async rekey() {
    const last = CipherState.#parameters(0xffffffffffffffffn, EMPTY);
    const sealed = new Uint8Array(await subtle.encrypt(last, this.#key, new Uint8Array(32)));
    this.#key = await subtle.importKey("raw", sealed.slice(0, 32), "AES-GCM", false, ["encrypt", "decrypt"]);
  }
}

/** What both ends have said so far (section 5.2). */
class Transcript {
  static async begin(protocol, prologueBytes) {
    const self = new Transcript();
    // The names are at most 32 bytes long, padded with zeros.
    self.hash = concat(utf8.encode(protocol), new Uint8Array(32)).slice(0, 32);
    self.chaining = self.hash;
    await self.mixHash(prologueBytes);
    return self;
  }

  async mixHash(bytes) { this.hash = await sha256(this.hash, bytes); }

  async mixKey(input) {
    const [chaining, key] = await hkdf(this.chaining, input, 2);
    this.chaining = chaining;
    this.cipher = await CipherState.of(key);
  }

  async mixKeyAndHash(input) {
    const [chaining, hash, key] = await hkdf(this.chaining, input, 3);
    this.chaining = chaining;
    await this.mixHash(hash);
    this.cipher = await CipherState.of(key);
  }

  async encrypt(plain) {
    const sealed = await this.cipher.encrypt(plain, this.hash);
    await this.mixHash(sealed);
    return sealed;
  }

  async decrypt(sealed) {
    const plain = await this.cipher.decrypt(sealed, this.hash);
    await this.mixHash(sealed);
    return plain;
  }

  /** The channel that the handshake has made (section 5.2, `Split`). */
  async split() {
    const [sending, receiving] = await hkdf(this.chaining, EMPTY, 2);
    return new Channel(await CipherState.of(sending), await CipherState.of(receiving));
  }
}

/** The device's side of a handshake.
 *
 * `mode` is "pair" with a `secret` of 32 bytes, or "resume". */
export class Initiator {
  static async begin({ mode, key, agent, secret, binding }) {
    if (PROTOCOLS[mode].length > 32) throw new Error("a name this long would be hashed");
    const self = new Initiator();
    self.secret = secret;
    self.key = key;
    self.agent = await publicKey(agent);
    const transcript = await Transcript.begin(PROTOCOLS[mode], prologue(binding));
    self.transcript = transcript;
    await transcript.mixHash(agent);
    self.ephemeral = await subtle.generateKey(X25519, false, ["deriveBits"]);
    const ephemeral = await publicBytes(self.ephemeral.publicKey);
    await transcript.mixHash(ephemeral);
    if (secret) await transcript.mixKey(ephemeral);
    await transcript.mixKey(await agree(self.ephemeral.privateKey, self.agent));
    const sealedKey = await transcript.encrypt(await publicBytes(key.publicKey));
    await transcript.mixKey(await agree(key.privateKey, self.agent));
    self.message = concat(ephemeral, sealedKey, await transcript.encrypt(EMPTY));
    return self;
  }

  /** Reads the agent's answer and gives the open channel. */
  async finish(message) {
    const { transcript } = this;
    if (message.length !== 48) altered();
    const ephemeral = message.slice(0, 32);
    await transcript.mixHash(ephemeral);
    if (this.secret) await transcript.mixKey(ephemeral);
    const theirs = await publicKey(ephemeral);
    await transcript.mixKey(await agree(this.ephemeral.privateKey, theirs));
    await transcript.mixKey(await agree(this.key.privateKey, theirs));
    if (this.secret) await transcript.mixKeyAndHash(this.secret);
    await transcript.decrypt(message.slice(32));
    return transcript.split();
  }
}

/** The device's side of a handshake between ends that do not know each other. A
 * person has to compare the numbers of both before the channel is used. */
export class CodeInitiator {
  static async begin({ key, binding }) {
    const self = new CodeInitiator();
    self.key = key;
    self.transcript = await Transcript.begin(PROTOCOLS.code, prologue(binding));
    self.ephemeral = await subtle.generateKey(X25519, false, ["deriveBits"]);
    self.message = await publicBytes(self.ephemeral.publicKey);
    await self.transcript.mixHash(self.message);
    await self.transcript.mixHash(EMPTY);
    return self;
  }

  /** Reads the agent's key and what it commits to; gives the message to send. */
  async answer(message) {
    const { transcript } = this;
    if (message.length !== 128) altered();
    const ephemeral = message.slice(0, 32);
    await transcript.mixHash(ephemeral);
    const theirs = await publicKey(ephemeral);
    await transcript.mixKey(await agree(this.ephemeral.privateKey, theirs));
    this.agent = await transcript.decrypt(message.slice(32, 80));
    await transcript.mixKey(await agree(this.ephemeral.privateKey, await publicKey(this.agent)));
    this.commitment = await transcript.decrypt(message.slice(80));
    const own = await transcript.encrypt(await publicBytes(this.key.publicKey));
    await transcript.mixKey(await agree(this.key.privateKey, theirs));
    this.number = crypto.getRandomValues(new Uint8Array(32));
    const sent = concat(own, await transcript.encrypt(this.number));
    this.channel = await transcript.split();
    return sent;
  }

  /** Reads the number to which the agent committed; gives the three to compare. */
  async reveal(sealed) {
    const number = await this.channel.reveal(sealed);
    const committed = await sha256(utf8.encode("katachi-channel/1 commitment"), number);
    if (committed.some((byte, at) => byte !== this.commitment[at])) altered();
    const input = concat(lengthBefore(number), lengthBefore(this.number));
    const key = await subtle.importKey("raw", input, "HKDF", false, ["deriveBits"]);
    const info = lengthBefore(utf8.encode("katachi-channel/1 code"));
    const parameters = { name: "HKDF", hash: "SHA-256", salt: this.transcript.hash, info };
    const bytes = new Uint8Array(await subtle.deriveBits(parameters, key, 40));
    const bits = bytes.reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
    // 13 bits each, written as four digits.
    return [27n, 14n, 1n].map((shift) => 1000 + Number((bits >> shift) & 0x1fffn));
  }
}

/** `bytes` behind their 64-bit length. */
function lengthBefore(bytes) {
  const length = new Uint8Array(8);
  new DataView(length.buffer).setBigUint64(0, BigInt(bytes.length));
  return concat(length, bytes);
}

const MESSAGE = 1;
const MORE = 2;
const REKEY = 3;
const CLOSE = 4;
const CONFIRM = 5;
const REVEAL = 6;

function broken(what) {
  throw new NotTheAgent(`The agent broke a rule of the channel (${what}). This connection was ended.`);
}

/** An open channel: messages into frames, frames into messages. What it refuses
 * once ends it. */
export class Channel {
  #sending;
  #receiving;
  #partial = null;
  /** Records that were received under the current key. */
  #inKey = 0;
  #over = false;

  constructor(sending, receiving) {
    this.#sending = sending;
    this.#receiving = receiving;
  }

  /** The frame that proves this device; it is sent before any other. */
  confirm() { return this.#seal(CONFIRM, EMPTY, 0); }

  close() { return this.#seal(CLOSE, EMPTY, 0); }

  async send(message) {
    if (message.length > MAX_MESSAGE) throw new Error("This is too long to send at once");
    const frames = [await this.#seal(MESSAGE, message.subarray(0, MAX_CONTENT), message.length)];
    for (let at = MAX_CONTENT; at < message.length; at += MAX_CONTENT) {
      frames.push(await this.#seal(MORE, message.subarray(at, at + MAX_CONTENT), 0));
    }
    return concat(...frames);
  }

  async #seal(kind, content, total) {
    const size = SIZES.find((one) => HEADER + content.length <= one);
    const record = new Uint8Array(size);
    const view = new DataView(record.buffer);
    record[0] = kind;
    view.setUint16(2, content.length);
    view.setUint32(4, total);
    record.set(content, HEADER);
    return frame(await this.#sending.encrypt(record));
  }

  async #open(sealed) {
    const record = await this.#receiving.decrypt(sealed);
    const view = new DataView(record.buffer, record.byteOffset);
    const [kind, length, total] = [record[0], view.getUint16(2), view.getUint32(4)];
    if (record[1] !== 0 || record.length !== SIZES.find((size) => HEADER + length <= size)) broken("a header");
    if (kind === MESSAGE ? total > MAX_MESSAGE : total !== 0) broken("a length");
    if (record.subarray(HEADER + length).some((byte) => byte !== 0)) broken("padding");
    this.#inKey += 1;
    if (this.#inKey >= RECORDS_PER_KEY && kind !== REKEY && kind !== CLOSE) broken("an old key");
    return { kind, length, total, content: record.subarray(HEADER, HEADER + length) };
  }

  /** The number in the first record of a pairing by numbers. */
  async reveal(sealed) {
    const { kind, length, content } = await this.#open(sealed);
    if (kind !== REVEAL || length !== 32) broken("a first record");
    return content.slice();
  }

  /** Opens one record: `{ message }`, `{ closed: true }`, or nothing yet. */
  async receive(sealed) {
    if (this.#over) throw new Error("This connection was ended");
    // Only what opens whole goes on.
    this.#over = true;
    const event = await this.#event(sealed);
    this.#over = event.closed === true;
    return event;
  }

  async #event(sealed) {
    const { kind, length, total, content } = await this.#open(sealed);
    switch (kind) {
      case MESSAGE:
        if (this.#partial || length !== Math.min(total, MAX_CONTENT)) broken("a message");
        if (length === total) return { message: content.slice() };
        this.#partial = { total, parts: [content.slice()], length };
        return {};
      case MORE: {
        const partial = this.#partial;
        if (!partial || length === 0) broken("a part");
        partial.parts.push(content.slice());
        partial.length += length;
        if (partial.length > partial.total) broken("a length");
        if (partial.length < partial.total) return {};
        this.#partial = null;
        return { message: concat(...partial.parts) };
      }
      case REKEY:
        if (length !== 0) broken("a change of keys");
        await this.#receiving.rekey();
        this.#inKey = 0;
        return {};
      case CLOSE:
        if (this.#partial || length !== 0) broken("an end");
        return { closed: true };
      default:
        return broken("a kind");
    }
  }
}

const FRAMES = { handshake: [48, 128], records: SIZES.map((size) => size + TAG) };

/** Puts a 16-bit length before `bytes`. */
export function frame(bytes) {
  return concat(Uint8Array.of(bytes.length >> 8, bytes.length & 0xff), bytes);
}

/** Takes frames out of bytes that come in pieces of any size. */
export class Frames {
  #rest = EMPTY;
  #at = 0;

  push(bytes) {
    this.#rest = concat(this.#rest.subarray(this.#at), bytes);
    this.#at = 0;
  }

  /** The next frame, or `null` if it is not complete. `kind` names the lengths
   * that exist; any other is refused before anything is kept for it. */
  next(kind) {
    const rest = this.#rest.subarray(this.#at);
    if (rest.length < 2) return null;
    const length = (rest[0] << 8) | rest[1];
    if (!FRAMES[kind].includes(length)) altered();
    if (rest.length < 2 + length) return null;
    this.#at += 2 + length;
    return rest.slice(2, 2 + length);
  }
}
