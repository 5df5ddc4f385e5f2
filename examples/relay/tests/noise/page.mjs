// Plays one case of what a relay can do to the page's end of a channel. Asks the
// agent by lines on standard output that begin with "agent"; says "done" at the
// end.
//
//   node page.mjs NOISE_JS CASE

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const [file, name] = process.argv.slice(2);
const source = readFileSync(file, "utf8");

/** The file, with one direction of a channel open to the test. `change` puts
 * smaller numbers in place of constants that nobody waits for. */
function load(...changes) {
  let text = `${source}\nexport { CipherState };`;
  for (const [from, to] of changes) {
    assert.equal(text.split(from).length, 2, from);
    text = text.replace(from, to);
  }
  return import(`data:text/javascript;base64,${Buffer.from(text).toString("base64")}`);
}

const noise = await load();
const { CipherState, Channel, CodeInitiator, Frames, Initiator, NotTheAgent, X25519, concat, frame } = noise;
const { subtle } = globalThis.crypto;

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const base64 = (bytes) => Buffer.from(bytes).toString("base64url");
async function agent(ask, rest) {
  const said = rest?.bytes ? { ...rest, bytes: base64(rest.bytes) } : rest;
  process.stdout.write(`agent ${JSON.stringify({ ask, ...said })}\n`);
  const answer = JSON.parse((await lines.next()).value);
  if (answer?.bytes) answer.bytes = new Uint8Array(Buffer.from(answer.bytes, "base64url"));
  return answer;
}

const known = await agent("keys");
const agentKey = new Uint8Array(Buffer.from(known.agent, "base64url"));
const secret = new Uint8Array(Buffer.from(known.secret, "base64url"));
const key = await subtle.generateKey(X25519, false, ["deriveBits"]);
const device = base64(await subtle.exportKey("raw", key.publicKey));

/** The page's first message, and what else the agent needs to answer it. */
async function greeting(mode) {
  const stream = base64(crypto.getRandomValues(new Uint8Array(16)));
  const binding = { relay: "https://relay.example", account: "ada", agent: "laptop", device, stream };
  const begun = mode === "code"
    ? await CodeInitiator.begin({ key, binding })
    : await Initiator.begin({ mode, key, agent: agentKey, secret: mode === "pair" ? secret : undefined, binding });
  return { begun, mode, device, stream, bytes: begun.message };
}

async function greet(mode, as) {
  const hello = await greeting(mode);
  const { begun, ...said } = hello;
  const answer = await agent("greet", { ...said, as });
  return { begun, said, session: answer.session, answer: unframed(answer.bytes) };
}

const unframed = (bytes) => {
  const frames = new Frames();
  frames.push(bytes);
  return frames.next("handshake");
};

function records(bytes) {
  const frames = new Frames();
  frames.push(bytes);
  const found = [];
  for (let one = frames.next("records"); one; one = frames.next("records")) found.push(one);
  return found;
}

/** An open channel and the records that the agent sends in it. */
async function open(mode) {
  const { begun, session, answer } = await greet(mode);
  let channel;
  let bytes;
  if (mode === "code") {
    const revealed = await agent("go on", { session, bytes: await begun.answer(answer) });
    const numbers = await begun.reveal(records(revealed.bytes)[0]);
    assert.equal(numbers.join(" "), revealed.code);
    channel = begun.channel;
    ({ bytes } = await agent("go on", { session, bytes: new Uint8Array(1) }));
  } else {
    channel = await begun.finish(answer);
    ({ bytes } = await agent("go on", { session, bytes: await channel.confirm() }));
  }
  return { channel, records: records(bytes) };
}

const LENGTHS = [5, 40000, 0, 700];

/** Everything that a channel gives for `sealed`; it has to end well. */
async function heard(channel, sealed) {
  const messages = [];
  for (const record of sealed) {
    const { message, closed } = await channel.receive(record);
    if (message) messages.push(message);
    if (closed) return messages;
  }
  throw new Error("it was not closed");
}

/** A channel that begins now is as good as any (no state is left behind). */
async function works(mode) {
  const { channel, records: sealed } = await open(mode);
  const messages = await heard(channel, sealed);
  assert.deepEqual(messages.map((one) => one.length), LENGTHS);
  messages.forEach((one, at) => assert.ok(one.every((byte) => byte === at)));
}

/** What a person is told, in words that say whose doing it was. */
async function refused(promise, what) {
  const error = await promise.then(() => null, (error) => error);
  assert.ok(error, `${what} was believed`);
  assert.ok(error instanceof NotTheAgent, `${what}: ${error.stack}`);
  assert.match(error.message, /^(What arrived is not what your agent sent|The agent broke a rule)/);
}

const flipped = (bytes, bit) => {
  const changed = bytes.slice();
  changed[bit >> 3] ^= 1 << (bit & 7);
  return changed;
};

/** A direction whose key the test has too: the page's end and the sender's. */
async function direction(module = noise) {
  const bytes = crypto.getRandomValues(new Uint8Array(32));
  const [unused, receiving, sender] = await Promise.all([bytes, bytes, bytes].map((one) => module.CipherState.of(one)));
  return { channel: new module.Channel(unused, receiving), sender };
}

/** A record as the agent's rules say, but for what is asked to be otherwise. */
function record({ kind = 1, second = 0, content = [], length = content.length, total = content.length, size = 256, last = 0 }) {
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  bytes[0] = kind;
  bytes[1] = second;
  view.setUint16(2, length);
  view.setUint32(4, total);
  bytes.set(content, 8);
  bytes[size - 1] |= last;
  return bytes;
}

const cases = {
  async every_changed_bit_of_a_handshake_is_refused() {
    for (const mode of ["pair", "resume", "code"]) {
      await works(mode);
      // The page's first message.
      const { begun, ...said } = await greeting(mode);
      for (let bit = 0; bit < said.bytes.length * 8; bit += 1) {
        const answer = await agent("greet", { ...said, bytes: flipped(said.bytes, bit) });
        // In XX it carries nothing yet that could be checked: the page notices.
        if (mode === "code") {
          const fresh = await greeting(mode);
          const { begun: asked, ...hello } = fresh;
          const changed = await agent("greet", { ...hello, bytes: flipped(hello.bytes, bit) });
          await refused(asked.answer(unframed(changed.bytes)), `bit ${bit} of a first message`);
        } else {
          assert.equal(answer, null, `${mode}: bit ${bit} of the first message`);
        }
      }
      // The agent's answer.
      const length = mode === "code" ? 128 : 48;
      for (let bit = 0; bit < length * 8; bit += 1) {
        const { begun: asked, answer } = await greet(mode);
        assert.equal(answer.length, length);
        const read = mode === "code" ? asked.answer(flipped(answer, bit)) : asked.finish(flipped(answer, bit));
        await refused(read, `${mode}: bit ${bit} of the answer`);
      }
      await works(mode);
    }
    // What comes third and fourth where numbers are compared.
    for (let bit = 0; bit < 96 * 8; bit += 1) {
      const { begun, session, answer } = await greet("code");
      const third = await begun.answer(answer);
      assert.equal(third.length, 96);
      assert.equal(await agent("go on", { session, bytes: flipped(third, bit) }), null, `bit ${bit} of the third message`);
    }
    for (let bit = 0; bit < 272 * 8; bit += 7) {
      const { begun, session, answer } = await greet("code");
      const revealed = await agent("go on", { session, bytes: await begun.answer(answer) });
      await refused(begun.reveal(flipped(records(revealed.bytes)[0], bit)), `bit ${bit} of the revealed number`);
    }
    await works("code");
  },

  async every_changed_bit_of_a_record_is_refused() {
    for (const [size, step] of [[256, 1], [1024, 8], [4096, 8], [16384, 8]]) {
      const content = new Uint8Array(size - 8).fill(7);
      const bytes = crypto.getRandomValues(new Uint8Array(32));
      const sealed = await (await CipherState.of(bytes)).encrypt(record({ content, size }));
      const page = async () => new Channel(await CipherState.of(bytes), await CipherState.of(bytes));
      assert.deepEqual((await (await page()).receive(sealed)).message, content);
      for (let bit = 0; bit < sealed.length * 8; bit += step) {
        const channel = await page();
        // Another bit of the next byte each time.
        const at = bit + (step === 1 ? 0 : (bit >> 3) % 8);
        await refused(channel.receive(flipped(sealed, at)), `bit ${at} of a record of ${size}`);
        // It is over, for what comes unchanged as well.
        if (bit % 1024 === 0) await assert.rejects(channel.receive(sealed), /was ended/);
      }
    }
  },

  async what_is_replayed_reordered_left_out_or_cut_ends_the_channel() {
    for (const mode of ["resume", "pair", "code"]) {
      const { records: { length } } = await open(mode);
      for (let at = 0; at < length - 1; at += 1) {
        const attacks = {
          "left out": (sealed) => sealed.splice(at, 1),
          "sent twice": (sealed) => sealed.splice(at, 0, sealed[at]),
          "exchanged with the next": (sealed) => sealed.splice(at, 2, sealed[at + 1], sealed[at]),
          "preceded by garbage": (sealed) => sealed.splice(at, 0, crypto.getRandomValues(new Uint8Array(272))),
          "a byte shorter": (sealed) => { sealed[at] = sealed[at].slice(0, -1); },
          "followed by the first once more": (sealed) => sealed.splice(at + 1, 0, sealed[0]),
        };
        for (const [what, attack] of Object.entries(attacks)) {
          const { channel, records: sealed } = await open(mode);
          attack(sealed);
          await refused(heard(channel, sealed), `${mode}: record ${at} ${what}`);
          // What would have come next is not taken up again.
          for (const one of sealed.slice(0, 3)) await assert.rejects(channel.receive(one), /was ended/);
        }
      }
      // Without its last record it is not complete, which is the carrier's to say.
      const { channel, records: sealed } = await open(mode);
      await assert.rejects(heard(channel, sealed.slice(0, -1)), /not closed/);
      // What was sent to an earlier channel of the same device means nothing here.
      const [earlier, now] = [await open(mode), await open(mode)];
      await refused(now.channel.receive(earlier.records[0]), `${mode}: a record of an earlier channel`);
      // After the end nothing follows.
      const last = await open(mode);
      await heard(last.channel, last.records);
      await assert.rejects(last.channel.receive(last.records[0]), /was ended/);
      await works(mode);
    }
  },

  async lengths_that_do_not_exist_are_refused_before_anything_is_kept() {
    for (const [kind, sizes] of [["handshake", [48, 128]], ["records", [272, 1040, 4112, 16400]]]) {
      for (let length = 0; length < 65536; length += 1) {
        const frames = new Frames();
        frames.push(Uint8Array.of(length >> 8));
        assert.equal(frames.next(kind), null);
        frames.push(Uint8Array.of(length & 0xff));
        if (sizes.includes(length)) assert.equal(frames.next(kind), null);
        else assert.throws(() => frames.next(kind), NotTheAgent, String(length));
      }
    }
    // Many at once, and one in many pieces.
    const whole = concat(...Array.from({ length: 3000 }, (_, at) => frame(new Uint8Array(272).fill(at))));
    const frames = new Frames();
    frames.push(whole);
    for (let at = 0; at < 3000; at += 1) assert.equal(frames.next("records")[271], at & 0xff);
    for (const byte of whole.subarray(0, 274)) {
      assert.equal(frames.next("records"), null);
      frames.push(Uint8Array.of(byte));
    }
    assert.equal(frames.next("records").length, 272);
  },

  async records_have_one_encoding() {
    const content = new Uint8Array(20).fill(1);
    const good = { content };
    const wrong = {
      "4 GiB declared": { content: new Uint8Array(16376).fill(1), size: 16384, total: 0xffffffff },
      "a byte over 16 MiB declared": { content: new Uint8Array(16376).fill(1), size: 16384, total: 16 * 1024 * 1024 + 1 },
      "less declared than sent": { content, total: 19 },
      "more declared than sent": { content, total: 21 },
      "content beyond the record": { content, length: 249 },
      "content far beyond the record": { content, length: 65535 },
      "a size that is not needed": { content, size: 1024 },
      "padding that is not zero": { content, last: 1 },
      "a second byte": { content, second: 1 },
      "a part of nothing": { kind: 2, content, total: 0 },
      "a confirmation": { kind: 5 },
      "a revealed number": { kind: 6, content: new Uint8Array(32), total: 0 },
      "no kind": { kind: 0 },
      "an unknown kind": { kind: 255 },
      "a change of keys with content": { kind: 3, content, total: 0 },
      "an end with content": { kind: 4, content, total: 0 },
      "an end with a length": { kind: 4, total: 1 },
    };
    for (const [what, fields] of Object.entries(wrong)) {
      const { channel, sender } = await direction();
      assert.deepEqual((await channel.receive(await sender.encrypt(record(good)))).message, content);
      await refused(channel.receive(await sender.encrypt(record(fields))), what);
      await assert.rejects(channel.receive(await sender.encrypt(record(good))), /was ended/);
    }
    const first = { content: new Uint8Array(16376).fill(1), size: 16384, total: 16400 };
    for (const [what, then] of Object.entries({
      "more than was declared": { kind: 2, content: new Uint8Array(25), total: 0 },
      "another message in between": good,
      "an end in between": { kind: 4 },
      "an empty part": { kind: 2, total: 0 },
    })) {
      const { channel, sender } = await direction();
      assert.deepEqual(await channel.receive(await sender.encrypt(record(first))), {});
      await refused(channel.receive(await sender.encrypt(record(then))), what);
    }
  },

  async nobody_without_the_agents_key_is_believed() {
    // Who has another key cannot even read what the page says first.
    for (const mode of ["pair", "resume"]) {
      const { begun, ...said } = await greeting(mode);
      assert.equal(await agent("greet", { ...said, as: "somebody else" }), null, mode);
      const garbage = () => begun.finish(crypto.getRandomValues(new Uint8Array(48)));
      await refused(garbage(), `${mode}: garbage`);
      // An answer that was given to somebody, or to this page before.
      const before = await greet(mode);
      const now = await greet(mode);
      await refused(now.begun.finish(before.answer), `${mode}: an answer of before`);
      // The mode is a part of what both sign.
      const other = await greet(mode === "pair" ? "resume" : "pair");
      const again = await greet(mode);
      await refused(again.begun.finish(other.answer), `${mode}: an answer of the other mode`);
      // Keys with which anybody knows the shared secret (RFC 7748, section 6.1).
      for (const weak of WEAK) {
        const asked = await greet(mode);
        const forged = concat(Buffer.from(weak, "hex"), asked.answer.slice(32));
        await refused(asked.begun.finish(forged), `${mode}: the key ${weak}`);
      }
      await works(mode);
    }
    for (const weak of WEAK) {
      const asked = await greet("code");
      await refused(asked.begun.answer(concat(Buffer.from(weak, "hex"), asked.answer.slice(32))), `code: the key ${weak}`);
    }
    // A handshake for another place than the page means.
    for (const field of ["stream", "device"]) {
      const { begun, ...said } = await greeting("resume");
      assert.equal(await agent("greet", { ...said, [field]: "elsewhere" }), null, field);
    }
  },

  async a_number_that_was_not_committed_to_is_refused() {
    // Somebody in between with a key of their own: an honest handshake with each
    // end, and different numbers at both.
    const [victim, own] = [await greet("code", "somebody else"), await greet("code")];
    const numbers = async ({ begun, session, answer }) => {
      const revealed = await agent("go on", { session, bytes: await begun.answer(answer) });
      return (await begun.reveal(records(revealed.bytes)[0])).join(" ");
    };
    const [shown, typed] = [await numbers(victim), await numbers(own)];
    assert.notEqual(shown, typed);
    assert.notDeepEqual(victim.begun.agent, own.begun.agent);
    // One that waits for the page's number before choosing its own is caught.
    const asked = await greet("code");
    await agent("go on", { session: asked.session, bytes: await asked.begun.answer(asked.answer) });
    const { channel, sender } = await direction();
    asked.begun.channel = channel;
    const chosen = crypto.getRandomValues(new Uint8Array(32));
    const reveal = { kind: 6, content: chosen, total: 0 };
    await refused(asked.begun.reveal(await sender.encrypt(record(reveal))), "another number than the one committed to");
    await works("code");
  },

  async counters_end_before_they_come_again() {
    const near = await load(["#counter = 0n;", "#counter = 2n ** 48n - 2n;"]);
    const { channel, sender } = await direction(near);
    const say = async () => channel.receive(await sender.encrypt(record({ content: [1] })));
    assert.equal((await say()).message.length, 1);
    assert.equal((await say()).message.length, 1);
    await assert.rejects(say(), /was used up/);
    await assert.rejects(say(), /was used up/, "it did not begin anew");
    // The page's own direction.
    const page = (await direction(near)).channel;
    await page.send(new Uint8Array(1));
    await page.send(new Uint8Array(1));
    await assert.rejects(page.send(new Uint8Array(1)), /was used up/);
    await assert.rejects(page.close(), /was used up/);
    // A message that needs more than is left is not begun to be believed.
    await assert.rejects((await direction(near)).channel.send(new Uint8Array(60000)), /was used up/);
    // Nobody makes the page stay with one key.
    const strict = await load(["RECORDS_PER_KEY = 2 ** 20;", "RECORDS_PER_KEY = 4;"]);
    for (const changes of [true, false]) {
      const { channel, sender } = await direction(strict);
      for (let n = 0; n < 3; n += 1) await channel.receive(await sender.encrypt(record({ content: [n] })));
      if (changes) {
        await channel.receive(await sender.encrypt(record({ kind: 3 })));
        await sender.rekey();
        assert.deepEqual((await channel.receive(await sender.encrypt(record({ content: [9] })))).message, Uint8Array.of(9));
      } else {
        const error = await channel.receive(await sender.encrypt(record({ content: [3] }))).catch((error) => error);
        assert.match(error.message, /an old key/);
      }
    }
  },

  async keys_change_within_a_message_too() {
    const { channel, sender } = await direction();
    const content = new Uint8Array(16376).fill(5);
    await channel.receive(await sender.encrypt(record({ content, size: 16384, total: 16377 })));
    await channel.receive(await sender.encrypt(record({ kind: 3 })));
    await sender.rekey();
    const { message } = await channel.receive(await sender.encrypt(record({ kind: 2, content: [5], total: 0 })));
    assert.equal(message.length, 16377);
  },
};

/** Public keys of small order, and those that are them in another writing. */
const WEAK = [
  "0000000000000000000000000000000000000000000000000000000000000000",
  "0100000000000000000000000000000000000000000000000000000000000000",
  "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
  "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
  "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
  "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
  "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

await cases[name]();
process.stdout.write("done\n");
process.exit(0);
