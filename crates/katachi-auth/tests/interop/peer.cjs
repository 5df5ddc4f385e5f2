// Signs or verifies one message with an npm package named on the command line.
//
// Reads a job as JSON from standard input, writes the outcome as JSON.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");

const name = process.argv[2];
const library = require(name);
const job = JSON.parse(fs.readFileSync(0, "utf8"));
const secret = Buffer.from(job.key, "base64");

// An Ed25519 seed becomes a key behind this PKCS#8 prefix (RFC 8410).
const pkcs8 = Buffer.from("302e020100300506032b657004220420", "hex");
const pair = () => {
  const key = crypto.createPrivateKey({
    key: Buffer.concat([pkcs8, secret]),
    format: "der",
    type: "pkcs8",
  });
  return { key, open: crypto.createPublicKey(key) };
};

const sign = (base) =>
  job.algorithm === "ed25519"
    ? crypto.sign(null, base, pair().key)
    : crypto.createHmac("sha256", secret).update(base).digest();

const verify = (base, signature) => {
  if (job.algorithm === "ed25519") {
    return crypto.verify(null, base, pair().open, signature);
  }
  const expected = sign(base);
  return expected.length === signature.length && crypto.timingSafeEqual(expected, signature);
};

const now = Math.floor(Date.now() / 1000);

// http-message-signatures: headers as an object, its own signers.
const older = {
  message: (parts) => ({ ...parts, headers: Object.fromEntries(parts.headers) }),
  async sign() {
    const key = job.algorithm === "ed25519" ? pair().key : secret;
    const signer = library.createSigner(key, job.algorithm, "k-1");
    const config = {
      key: signer,
      name: "theirs",
      params: ["keyid", "created", "nonce", "expires", "tag", "alg"],
      fields: job.components,
      paramValues: {
        created: new Date(now * 1000),
        expires: new Date((now + 60) * 1000),
        nonce: "n-1",
        tag: "interop",
      },
    };
    const message = older.message(job.message);
    const request = job.message.request && older.message(job.message.request);
    const signed = await library.httpbis.signMessage(config, message, request);
    return Object.entries(signed.headers);
  },
  async verify() {
    const key = job.algorithm === "ed25519" ? pair().open : secret;
    const config = {
      requiredParams: ["tag"],
      keyLookup: async (params) =>
        params.tag === job.tag && {
          id: "k-1",
          algs: [job.algorithm],
          verify: library.createVerifier(key, job.algorithm),
        },
    };
    const message = older.message(job.message);
    const request = job.message.request && older.message(job.message.request);
    return (await library.httpbis.verifyMessage(config, message, request)) === true;
  },
};

// http-message-sig: descriptors, and whatever signs and verifies bytes.
const newer = {
  message(parts) {
    const fields = parts.headers.map(([name, value]) => ({ name, value }));
    if (parts.status) {
      const request = parts.request && newer.message(parts.request);
      return { kind: "response", status: parts.status, fields, request };
    }
    return {
      kind: "request",
      method: parts.method,
      targetUri: parts.url,
      requestTarget: new URL(parts.url).pathname + new URL(parts.url).search,
      fields,
    };
  },
  component(id) {
    const [, name, params] = id.match(/^"?([^";]+)"?(.*)$/);
    return params === ";req" ? library.component(name, { req: true }) : name;
  },
  async sign() {
    const fields = await library.createSignature(newer.message(job.message), {
      label: "theirs",
      components: job.components.map(newer.component),
      parameters: {
        nonce: "n-1",
        alg: job.algorithm,
        created: now,
        keyid: "k-1",
        expires: now + 60,
        tag: "interop",
      },
      signer: { algorithm: job.algorithm, sign },
    });
    return [
      ...job.message.headers,
      ["Signature-Input", fields.signatureInput],
      ["Signature", fields.signature],
    ];
  },
  async verify() {
    await library.verifySignature(newer.message(job.message), {
      policy: {
        algorithms: [job.algorithm],
        requiredComponents: [],
        requiredParameters: ["created", "keyid", "tag"],
        maxAge: 300,
        clockSkew: 5,
        validate: (signature) => signature.parameters.tag === job.tag,
      },
      resolveVerifier: () => ({ algorithm: job.algorithm, verify }),
    });
    return true;
  },
};

const peer = name === "http-message-sig" ? newer : older;

(async () => {
  if (job.do === "sign") {
    return { headers: await peer.sign() };
  }
  try {
    return { accepted: await peer.verify() };
  } catch (error) {
    // What is not an opinion about the signature is a fault of this script.
    if (error instanceof TypeError || error instanceof ReferenceError) throw error;
    return { accepted: false, why: String(error) };
  }
})().then(
  (outcome) => process.stdout.write(JSON.stringify(outcome)),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
