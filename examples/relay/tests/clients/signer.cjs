// An agent whose signatures are made and checked by npm `http-message-signatures`, and
// whose keys are derived by node's own HKDF.
//
// Reads a job as JSON from standard input, writes the relay's answer as JSON.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const https = require("node:https");
const { createSigner, createVerifier, httpbis } = require("http-message-signatures");

const job = JSON.parse(fs.readFileSync(0, "utf8"));
const { token } = job;

// Every field behind its length, a 64-bit big-endian number.
const field = (bytes) => {
  const length = Buffer.alloc(8);
  length.writeBigUInt64BE(BigInt(bytes.length));
  return Buffer.concat([length, Buffer.from(bytes)]);
};

const key = (purpose) => {
  const secret = field(Buffer.from(token.hmac_secret, "base64url"));
  const label = Buffer.concat([field("katachi/v1/http-signature"), field(purpose)]);
  return Buffer.from(crypto.hkdfSync("sha256", secret, token.agent_id, label, 32));
};

const digest = (body) =>
  `sha-256=:${crypto.createHash("sha256").update(body).digest("base64")}:`;

const send = (request, body) =>
  new Promise((resolve, reject) => {
    const options = {
      host: "127.0.0.1",
      port: job.port,
      ca: fs.readFileSync(job.ca),
      servername: "katachi.localhost",
      minVersion: "TLSv1.3",
      method: request.method,
      path: new URL(request.url).pathname + new URL(request.url).search,
      headers: { ...request.headers, Host: new URL(request.url).host },
    };
    const sent = https.request(options, (answer) => {
      const parts = [];
      answer.on("data", (part) => parts.push(part));
      answer.on("end", () =>
        resolve({ status: answer.statusCode, headers: answer.headers, body: Buffer.concat(parts) }),
      );
    });
    sent.on("error", reject);
    sent.end(body);
  });

(async () => {
  const now = Math.floor(Date.now() / 1000);
  const request = {
    method: "POST",
    url: `${job.url}/v1/agent/heartbeat`,
    headers: {
      "Content-Type": "application/json",
      "Content-Digest": digest(job.body),
      "Katachi-Epoch": token.epoch,
    },
  };
  const config = {
    key: createSigner(key("api"), "hmac-sha256", token.key_id),
    name: "katachi",
    params: ["created", "expires", "nonce", "keyid", "tag"],
    paramValues: {
      created: new Date(now * 1000),
      expires: new Date((now + 60) * 1000),
      nonce: `r1.${crypto.randomBytes(16).toString("base64url")}`,
      tag: "katachi-agent/1",
    },
    fields: [
      "@method",
      "@authority",
      "@path",
      "@query",
      "content-digest",
      "katachi-epoch",
      "content-type",
    ],
  };
  const signed = await httpbis.signMessage(config, request);
  let body = job.body;
  if (job.alter === "query") signed.url += "?x=1";
  if (job.alter === "digest") {
    body = '{"state":"draining"}';
    signed.headers["Content-Digest"] = digest(body);
  }
  if (job.alter === "type") signed.headers["Content-Type"] = "text/plain";
  if (job.alter === "header") signed.headers["Idempotency-Key"] = '"1"';
  const answer = await send(signed, body);
  const verdict = await httpbis
    .verifyMessage(
      {
        requiredParams: ["created", "keyid", "tag"],
        tolerance: 5,
        keyLookup: async (params) =>
          params.tag === "katachi-relay/1" &&
          params.keyid === token.key_id && {
            id: token.key_id,
            algs: ["hmac-sha256"],
            verify: createVerifier(key("response"), "hmac-sha256"),
          },
      },
      { status: answer.status, headers: answer.headers },
      signed,
    )
    .catch((error) => String(error));
  return {
    status: answer.status,
    body: JSON.parse(answer.body),
    verified: verdict,
    whole: answer.headers["content-digest"] === digest(answer.body),
  };
})().then(
  (outcome) => process.stdout.write(JSON.stringify(outcome)),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
