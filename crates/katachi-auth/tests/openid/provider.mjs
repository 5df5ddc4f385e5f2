// Two OpenID providers on loopback by npm oidc-provider. Whoever comes is signed in as
// the account `ana` and agrees to everything. Prints one line of JSON with the issuers.
//
// `POST /sign` on the first one signs any claims with the provider's own keys, to make
// tokens that are wrong in one way only.
import { createHmac, generateKeyPairSync, createPublicKey, createPrivateKey } from 'node:crypto';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const load = (path) => import(pathToFileURL(join(process.env.NODE_PATH, path)));
const { Provider } = await load('oidc-provider/lib/index.js');
const { SignJWT, importJWK } = await load('jose/dist/webapi/index.js');

const jwk = (pair, kid, alg) =>
  ({ ...pair.privateKey.export({ format: 'jwk' }), kid, alg, use: 'sig' });
const keys = {
  RS256: jwk(generateKeyPairSync('rsa', { modulusLength: 2048 }), 'rsa-1', 'RS256'),
  ES256: jwk(generateKeyPairSync('ec', { namedCurve: 'P-256' }), 'ec-1', 'ES256'),
  EdDSA: jwk(generateKeyPairSync('ed25519'), 'ed-1', 'EdDSA'),
};

const web = (client_id, alg, more = {}) => ({
  client_id,
  client_secret: 'a secret of the web client, long enough',
  redirect_uris: ['https://relay.example/login/callback'],
  grant_types: ['authorization_code', 'refresh_token'],
  id_token_signed_response_alg: alg,
  ...more,
});
const clients = [
  web('web-rs256', 'RS256'),
  web('web-es256', 'ES256'),
  web('web-eddsa', 'EdDSA'),
  web('hasty', 'RS256'),
  {
    client_id: 'native',
    application_type: 'native',
    token_endpoint_auth_method: 'none',
    redirect_uris: ['http://127.0.0.1/callback'],
  },
  ...['terminal', 'terminal-dpop'].map((client_id) => ({
    client_id,
    application_type: 'native',
    token_endpoint_auth_method: 'none',
    redirect_uris: [],
    response_types: [],
    grant_types: ['urn:ietf:params:oauth:grant-type:device_code'],
    dpop_bound_access_tokens: client_id === 'terminal-dpop',
  })),
];

function provide(issuer) {
  const provider = new Provider(issuer, {
    clients,
    jwks: { keys: Object.values(keys) },
    cookies: { keys: ['cookie-key'] },
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
    enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256', 'EdDSA'] },
    pkce: { required: () => true },
    features: {
      devInteractions: { enabled: false },
      deviceFlow: { enabled: true },
      dPoP: { enabled: true, nonceSecret: Buffer.alloc(32, 1), requireNonce: () => true },
    },
    ttl: {
      AuthorizationCode: (ctx, code, client) => (client.clientId === 'hasty' ? 1 : 60),
      AccessToken: 600, DeviceCode: 600, Grant: 600, IdToken: 600, Interaction: 600, Session: 600,
    },
    async findAccount(ctx, id) {
      return {
        accountId: id,
        claims: () => ({ sub: id, email: 'ana@example.com', email_verified: true, name: 'Ana' }),
      };
    },
    async loadExistingGrant(ctx) {
      const { client, session } = ctx.oidc;
      const grant = new ctx.oidc.provider.Grant({ clientId: client.clientId, accountId: session.accountId });
      grant.addOIDCScope('openid email profile');
      await grant.save();
      return grant;
    },
    interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  });
  const serve = provider.callback();
  return async (request, response) => {
    if (request.url === '/sign') {
      let body = '';
      for await (const piece of request) body += piece;
      return response.end(await sign(JSON.parse(body)));
    }
    if (!request.url.startsWith('/interaction/')) return serve(request, response);
    return provider.interactionFinished(request, response, { login: { accountId: 'ana' }, consent: {} });
  };
}

// RS256 under another name: the classic confusion of public key and shared secret.
async function sign({ alg, header, claims }) {
  const text = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  if (alg === 'HS256') {
    const signed = `${text({ alg, ...header })}.${text(claims)}`;
    const pem = createPublicKey(createPrivateKey({ key: keys.RS256, format: 'jwk' }))
      .export({ format: 'pem', type: 'spki' });
    return `${signed}.${createHmac('sha256', pem).update(signed).digest('base64url')}`;
  }
  const key = await importJWK(keys[alg], alg);
  return new SignJWT(claims).setProtectedHeader({ alg, kid: keys[alg].kid, ...header }).sign(key);
}

const issuers = [];
for (let count = 0; count < 2; count += 1) {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const issuer = `http://127.0.0.1:${server.address().port}`;
  server.on('request', provide(issuer));
  issuers.push(issuer);
}
console.log(JSON.stringify(issuers));
// The provider's hints go to standard output, and nobody reads on.
console.info = () => {};
// The test ends by closing the pipe, however it ends.
process.stdin.on('end', () => process.exit(0)).resume();
