// The device flow with npm oauth4webapi, proofs of possession included.
//
// Reads {url, port, ca} as a line of JSON, writes {user_code}, waits for a line (somebody
// has approved), and writes what became of the grant and of its token.
import { readFileSync } from 'node:fs';
import { request } from 'node:https';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const oauth = await import(pathToFileURL(join(process.env.NODE_PATH, 'oauth4webapi/build/index.js')));
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const job = JSON.parse((await lines.next()).value);
const issuer = new URL(job.url);

/** `fetch` that trusts the relay's own authority and knows where its name leads. */
const there = (url, { method, headers, body }) =>
  new Promise((resolve, reject) => {
    const { host, pathname, search } = new URL(url);
    const options = {
      host: '127.0.0.1', port: job.port, servername: issuer.hostname, ca: readFileSync(job.ca), method,
      path: pathname + search, headers: { ...Object.fromEntries(new Headers(headers)), host },
    };
    const sent = request(options, async (answer) => {
      const parts = await answer.toArray();
      const got = new Headers(Object.entries(answer.headers).map(([name, value]) => [name, String(value)]));
      resolve(new Response(Buffer.concat(parts), { status: answer.statusCode, headers: got }));
    });
    sent.on('error', reject);
    sent.end(body ? String(body) : undefined);
  });
const options = { [oauth.customFetch]: there };

const server = await oauth.processDiscoveryResponse(
  issuer, await oauth.discoveryRequest(issuer, { algorithm: 'oauth2', ...options }));
const client = { client_id: 'katachi-agent' };
const auth = oauth.None();
const holder = async () => oauth.DPoP(client, await oauth.generateKeyPair('Ed25519'));
const [DPoP, other] = [await holder(), await holder()];

const started = await oauth.processDeviceAuthorizationResponse(
  server, client,
  await oauth.deviceAuthorizationRequest(server, client, auth,
    { dpop_jkt: await DPoP.calculateThumbprint(), host_name: 'a box of another make' }, options));

const poll = async (key) => {
  const answer = await oauth.deviceCodeGrantRequest(server, client, auth, started.device_code, { DPoP: key, ...options });
  return oauth.processDeviceCodeResponse(server, client, answer);
};
/** The word of a refusal; the library asks to be called again where a proof lacks the nonce. */
const refused = async (work) => {
  try {
    await work();
    return 'given';
  } catch (error) {
    return oauth.isDPoPNonceError(error) ? refused(work) : error.error ?? error.cause?.[0]?.parameters?.error ?? error.status ?? String(error);
  }
};
const ask = async (key, token) => {
  const url = new URL('/oauth/agent', issuer);
  const answer = await oauth.protectedResourceRequest(token, 'GET', url, undefined, undefined, { DPoP: key, ...options });
  return answer.json();
};

const pending = await refused(() => poll(DPoP));
console.log(JSON.stringify({ user_code: started.user_code, pending }));
await lines.next();

// D07: who has the code and not the key; then D06: fifty at once.
const stolen = await refused(() => poll(other));
const polls = await Promise.allSettled(Array.from({ length: 50 }, () => poll(DPoP)));
const given = polls.filter(({ status }) => status === 'fulfilled').map(({ value }) => value);
const words = [...new Set(polls.filter(({ status }) => status === 'rejected').map(({ reason }) => reason.error))];
const again = await refused(() => poll(DPoP));
const [token] = given;
const owner = await ask(DPoP, token.access_token);
const [key, expires, tag] = token.access_token.split('.');
console.log(JSON.stringify({
  stolen, given: given.length, words, again, token, owner,
  other: await refused(() => ask(other, token.access_token)),
  longer: await refused(() => ask(DPoP, `${key}.${Number(expires) + 60}.${tag}`)),
  plain: (await there(new URL('/oauth/agent', issuer), { headers: { authorization: `Bearer ${token.access_token}` } })).status,
}));
process.exit(0);
