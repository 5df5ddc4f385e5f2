// Two OpenID providers on loopback by npm oidc-provider. Prints one line of JSON with
// the issuers. Whoever comes is signed in as the `login_hint` of their request says
// (`ana` without one) and agrees to everything:
//
//   ana              ana@example.com, verified
//   ana~unverified   the same address, which the provider does not vouch for
//   ana~none         no address
//   fault-NAME       the answer with the ID token is wrong in one way; `fault-control`
//                    is signed anew and not wrong
import { createHmac, createPrivateKey, createPublicKey, generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const load = (path) => import(pathToFileURL(join(process.env.NODE_PATH, path)));
const { Provider } = await load('oidc-provider/lib/index.js');
const { SignJWT, importJWK, decodeJwt } = await load('jose/dist/webapi/index.js');

const key = {
  ...generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' }),
  kid: 'rsa-1', alg: 'RS256', use: 'sig',
};
const stranger = {
  ...generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' }),
  kid: 'rsa-1', alg: 'RS256', use: 'sig',
};

const text = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
const sign = async (claims, jwk = key) =>
  new SignJWT(claims).setProtectedHeader({ alg: 'RS256', kid: 'rsa-1' }).sign(await importJWK(jwk, 'RS256'));
const faults = {
  control: (claims) => sign(claims),
  nonce: (claims) => sign({ ...claims, nonce: 'another' }),
  audience: (claims) => sign({ ...claims, aud: 'another' }),
  issuer: (claims) => sign({ ...claims, iss: 'https://id.example' }),
  expired: (claims) => sign({ ...claims, exp: claims.iat - 600 }),
  stranger: (claims) => sign(claims, stranger),
  none: (claims) => `${text({ alg: 'none' })}.${text(claims)}.`,
  hmac: (claims) => {
    const signed = `${text({ alg: 'HS256', kid: 'rsa-1' })}.${text(claims)}`;
    const pem = createPublicKey(createPrivateKey({ key, format: 'jwk' })).export({ format: 'pem', type: 'spki' });
    return `${signed}.${createHmac('sha256', pem).update(signed).digest('base64url')}`;
  },
};

// Holds the answer of the token endpoint back, and changes it.
function intercept(response) {
  const pieces = [];
  const end = response.end.bind(response);
  response.write = (piece) => { pieces.push(Buffer.from(piece)); return true; };
  response.end = async (piece) => {
    if (piece) pieces.push(Buffer.from(piece));
    let body = Buffer.concat(pieces).toString();
    const answer = JSON.parse(body);
    const claims = answer.id_token ? decodeJwt(answer.id_token) : {};
    const [, fault] = /^fault-(\w+)$/.exec(claims.sub ?? '') ?? [];
    if (fault === 'slow') return;
    if (fault === 'error') { response.statusCode = 500; body = 'out of order'; }
    else if (fault) body = JSON.stringify({ ...answer, id_token: await faults[fault](claims) });
    response.setHeader('content-length', Buffer.byteLength(body));
    end(body);
  };
}

function provide(issuer) {
  const provider = new Provider(issuer, {
    clients: [{
      client_id: 'web',
      client_secret: 'a secret of the web client, long enough',
      redirect_uris: ['https://relay.example/signin/work'],
      grant_types: ['authorization_code'],
    }],
    jwks: { keys: [key] },
    cookies: { keys: ['cookie-key'] },
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
    pkce: { required: () => true },
    features: { devInteractions: { enabled: false } },
    ttl: { AuthorizationCode: 60, AccessToken: 600, Grant: 600, IdToken: 600, Interaction: 600, Session: 600 },
    async findAccount(ctx, id) {
      const [name, kind] = id.split('~');
      const address = kind === 'none' ? {} : { email: `${name}@example.com`, email_verified: kind !== 'unverified' };
      return { accountId: id, claims: () => ({ sub: id, name: name.toUpperCase(), ...address }) };
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
  // Each relay of the tests has a port of its own.
  provider.Client.prototype.redirectUriAllowed = (uri) =>
    /^https:\/\/katachi\.localhost:\d+\/signin\/[a-z]+$/.test(uri);
  const serve = provider.callback();
  return async (request, response) => {
    if (request.url === '/token') intercept(response);
    if (!request.url.startsWith('/interaction/')) return serve(request, response);
    const { params } = await provider.interactionDetails(request, response);
    const login = { accountId: params.login_hint ?? 'ana' };
    return provider.interactionFinished(request, response, { login, consent: {} });
  };
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
