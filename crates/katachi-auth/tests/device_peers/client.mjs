// Device flow with npm oauth4webapi, with DPoP. Argument: the server's base address.
// Prints the user code, waits for a line on standard input, prints the token.
import { join } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { pathToFileURL } from 'node:url';

const oauth = await import(pathToFileURL(join(process.env.NODE_PATH, 'oauth4webapi/build/index.js')));
const issuer = new URL(process.argv[2]);
const insecure = { [oauth.allowInsecureRequests]: true };
const server = await oauth.processDiscoveryResponse(
  issuer,
  await oauth.discoveryRequest(issuer, { algorithm: 'oauth2', ...insecure }),
);
const client = { client_id: 'oauth4webapi' };
const auth = oauth.None();
const keys = await oauth.generateKeyPair('Ed25519');
const DPoP = oauth.DPoP(client, keys);
const started = await oauth.processDeviceAuthorizationResponse(
  server,
  client,
  await oauth.deviceAuthorizationRequest(server, client, auth, { dpop_jkt: await DPoP.calculateThumbprint() }, insecure),
);
const poll = async () => {
  const answer = await oauth.deviceCodeGrantRequest(server, client, auth, started.device_code, { DPoP, ...insecure });
  return oauth.processDeviceCodeResponse(server, client, answer);
};
const code = async () => {
  try {
    await poll();
  } catch (error) {
    // The first proof lacks the nonce; the library asks to be called again.
    if (oauth.isDPoPNonceError(error)) return code();
    return error.error;
  }
  return 'a token';
};
if ((await code()) !== 'authorization_pending') throw new Error('not pending');
console.log(started.user_code);
const lines = createInterface({ input: process.stdin });
await new Promise((resolve) => lines.once('line', resolve));
const token = await poll();
if (token.token_type !== 'dpop') throw new Error(`a ${token.token_type} token`);
console.log(token.access_token);
process.exit(0);
