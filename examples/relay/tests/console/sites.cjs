// Plays other people's sites in the browser of somebody who is signed in: one of another
// name, and one of the relay's own name at another port, to which the browser sends the
// relay's cookies. Whatever they try at the relay they try first at a careless site, where
// each of it succeeds.
const { chromium } = require("playwright-core");
const assert = require("node:assert/strict");
const crypto = require("node:crypto");
const fs = require("node:fs");
const https = require("node:https");
const { connect } = require("node:tls");

const { RELAY, USER_CODE, AGENT, PASSWORD, PROFILE, CHROMIUM, CERTIFICATE, KEY } = process.env;
const say = (text) => process.stdout.write(`${text}\n`);

/** What the careless site did for somebody whom it knows. */
const acted = [];

function careless(request, response) {
  const known = (request.headers.cookie ?? "").includes("session=ana");
  const path = new URL(request.url, "https://careless.localhost").pathname;
  const { origin } = request.headers;
  if (origin) {
    response.setHeader("access-control-allow-origin", origin);
    response.setHeader("access-control-allow-credentials", "true");
    response.setHeader("access-control-allow-headers", "content-type");
    response.setHeader("access-control-allow-methods", "DELETE, GET, POST");
  }
  if (request.method !== "OPTIONS" && path === "/act" && known) acted.push(request.method);
  const [type, body] = {
    "/icon.svg": ["image/svg+xml", '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'],
    "/worker.js": ["text/javascript", "self.loaded = true;"],
    "/secret": ["application/json", JSON.stringify({ me: known ? "ana" : null })],
  }[path] ?? ["text/html", "<title>Careless</title><h1>Careless</h1>"];
  if (path === "/secret") response.setHeader("cache-control", "max-age=600");
  if (path === "/login") {
    response.setHeader("set-cookie", "session=ana; Path=/; Secure; HttpOnly; SameSite=None");
  }
  response.setHeader("content-type", type);
  request.resume();
  request.on("end", () => response.end(body));
}

/** Takes every WebSocket (RFC 6455 section 4.2.2). */
function upgrade(request, socket) {
  if ((request.headers.cookie ?? "").includes("session=ana")) acted.push("WebSocket");
  const key = `${request.headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`;
  const accept = crypto.createHash("sha1").update(key).digest("base64");
  socket.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    + `Sec-WebSocket-Accept: ${accept}\r\n\r\n`);
}

async function listen(server) {
  server.on("upgrade", upgrade);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server.address().port;
}

/** The digest of a certificate's key by which Chromium can be told to believe it. */
function believed(certificate) {
  const key = certificate.publicKey.export({ type: "spki", format: "der" });
  return crypto.createHash("sha256").update(key).digest("base64");
}

/** The certificate that the relay shows. */
function shown() {
  const { hostname, port } = new URL(RELAY);
  return new Promise((resolve, reject) => {
    const options = { host: "127.0.0.1", port, servername: hostname, rejectUnauthorized: false };
    const socket = connect(options, () => {
      resolve(socket.getPeerX509Certificate());
      socket.destroy();
    });
    socket.on("error", reject);
  });
}

/** How a request for `url` ends that `act` has the page make; what it is answered. */
async function ending(page, url, act) {
  const of = (request) => request.url() === url;
  const ended = Promise.race([
    page.waitForEvent("requestfinished", of), page.waitForEvent("requestfailed", of),
  ]);
  await act();
  const request = await ended;
  return request.failure() ? null : request.response();
}

/** What can be tried from a page of another site: whether it succeeded. */
const ATTACKS = {
  async "a form"(page, target) {
    const back = page.url();
    const navigated = page.waitForNavigation();
    await page.evaluate(({ act, form: text }) => {
      const form = document.createElement("form");
      Object.assign(form, { method: "post", action: act, enctype: "text/plain" });
      // Text that is JSON, with the equals sign in a value that nobody reads.
      const field = document.createElement("input");
      const at = text.lastIndexOf("=");
      Object.assign(field, { name: text.slice(0, at), value: text.slice(at + 1) });
      form.append(field);
      document.body.append(form);
      form.submit();
    }, target);
    const ok = (await navigated).ok();
    await page.goto(back);
    return ok;
  },
  async "a script with the cookies"(page, target) {
    return page.evaluate(({ act, text }) => fetch(act, {
      method: "POST", credentials: "include", headers: { "content-type": "application/json" }, body: text,
    }).then((answer) => answer.ok, () => false), target);
  },
  async "a script that does not ask whether it may"(page, target) {
    const answer = await ending(page, target.act, () => page.evaluate(({ act, text }) => {
      fetch(act, { method: "POST", mode: "no-cors", credentials: "include", body: text }).catch(() => {});
    }, target));
    return answer?.ok() ?? false;
  },
  async "a beacon"(page, target) {
    const answer = await ending(page, target.act,
      () => page.evaluate(({ act, text }) => { navigator.sendBeacon(act, text); }, target));
    return answer?.ok() ?? false;
  },
  async "another method"(page, target) {
    return page.evaluate(({ remove }) => fetch(remove, { method: "DELETE", credentials: "include" })
      .then((answer) => answer.ok, () => false), target);
  },
  async "reading"(page, target) {
    return page.evaluate(({ read }) => fetch(read, { credentials: "include" })
      .then(async (answer) => (await answer.text()).includes("ana"), () => false), target);
  },
  async "reading what the browser has kept"(page, target) {
    return page.evaluate(({ read }) => fetch(read, { credentials: "include", cache: "force-cache" })
      .then(async (answer) => (await answer.text()).includes("ana"), () => false), target);
  },
  async "a WebSocket"(page, target) {
    return page.evaluate(({ socket }) => new Promise((resolve) => {
      const opened = new WebSocket(socket);
      opened.onopen = () => resolve(true);
      opened.onerror = () => resolve(false);
    }), target);
  },
  ...Object.fromEntries([["an iframe", "iframe", "src"], ["an object", "object", "data"], ["an embed", "embed", "src"]]
    .map(([name, tag, attribute]) => [name, async (page, target) => {
      await ending(page, target.page, () => page.evaluate(({ tag, attribute, url }) => {
        const frame = document.createElement(tag);
        frame.setAttribute(attribute, url);
        document.body.append(frame);
      }, { tag, attribute, url: target.page }));
      let seen = false;
      for (const frame of page.frames().filter((frame) => frame !== page.mainFrame())) {
        // An object that may not be shown takes its frame away.
        await frame.waitForLoadState().catch(() => {});
        const text = await frame.evaluate(() => document.documentElement.innerText).catch(() => "");
        seen ||= target.says.test(text);
      }
      await page.reload();
      return seen;
    }])),
  async "a window that it opened"(page, target) {
    const opened = page.context().waitForEvent("page");
    await page.evaluate(({ page }) => { window.other = window.open(page); }, target);
    const popup = await opened;
    await popup.getByText(target.says).first().waitFor();
    const looksBack = await popup.evaluate(() => window.opener !== null);
    const reaches = await page.evaluate(() => !window.other.closed);
    await popup.close();
    return looksBack || reaches;
  },
  async "an image"(page, target) {
    return page.evaluate(({ image }) => new Promise((resolve) => {
      const shown = new Image();
      shown.onload = () => resolve(true);
      shown.onerror = () => resolve(false);
      shown.src = image;
    }), target);
  },
  async "a script of it"(page, target) {
    return page.evaluate(({ script }) => new Promise((resolve) => {
      const run = document.createElement("script");
      run.onload = () => resolve(true);
      run.onerror = () => resolve(false);
      Object.assign(run, { type: script.includes("worker") ? "" : "module", src: script });
      document.body.append(run);
    }), target);
  },
  async "a service worker of its own"(page, target) {
    return page.evaluate(({ script }) => navigator.serviceWorker.register(script)
      .then(() => true, () => false), target);
  },
};

async function main() {
  const tls = { cert: CERTIFICATE, key: KEY };
  const secure = await listen(https.createServer(tls, careless));
  const CARELESS = `https://careless.localhost:${secure}`;
  // Sites within others are sent their cookies, as in most people's browsers.
  const preferences = { profile: { cookie_controls_mode: 0, block_third_party_cookies: false } };
  fs.mkdirSync(`${PROFILE}/Default`);
  fs.writeFileSync(`${PROFILE}/Default/Preferences`, JSON.stringify(preferences));
  const keys = [believed(new crypto.X509Certificate(CERTIFICATE)), believed(await shown())];
  const context = await chromium.launchPersistentContext(PROFILE, {
    executablePath: CHROMIUM,
    // Of a site whose certificate was only let pass nothing is kept, nor a worker installed.
    args: ["--no-sandbox", `--ignore-certificate-errors-spki-list=${keys.join(",")}`],
  });
  const own = await context.newPage();
  own.setDefaultTimeout(60000);

  say("somebody is signed in at both");
  await own.goto(`${CARELESS}/login`);
  await own.goto(RELAY);
  const entered = await own.evaluate(async (password) => (await fetch("/api/login", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ email: "ana@example.org", password }),
  })).status, PASSWORD);
  assert.equal(entered, 200);
  const me = () => own.evaluate(async () => (await (await fetch("/api/session")).json()).me?.email);
  assert.equal(await me(), "ana@example.org");

  const relaySocket = `${RELAY.replace("https:", "wss:")}/api/agents/${AGENT}/channel`
    + `?mode=resume&device=${"A".repeat(43)}&stream=${"B".repeat(22)}`;
  const targets = {
    careless: {
      page: `${CARELESS}/`, says: /Careless/, act: `${CARELESS}/act`, remove: `${CARELESS}/act`,
      text: "{}", form: '{"a":"="}', read: `${CARELESS}/secret`, socket: `${CARELESS.replace("https:", "wss:")}/`,
      image: `${CARELESS}/icon.svg`, script: `${CARELESS}/worker.js`,
    },
    approve: {
      page: `${RELAY}/`, says: /Agents|Sign in/, act: `${RELAY}/api/device/approve`,
      text: JSON.stringify({ user_code: USER_CODE }), form: JSON.stringify({ user_code: USER_CODE, a: "=" }), remove: `${RELAY}/api/agents/${AGENT}`,
      read: `${RELAY}/api/session`, socket: relaySocket,
      image: `${RELAY}/assets/icon.svg`, script: `${RELAY}/assets/dom.js`,
    },
  };
  targets.leave = { ...targets.approve, act: `${RELAY}/api/logout`, text: "", form: "=" };

  const host = new URL(RELAY).hostname;
  for (const origin of [`https://attacker.localhost:${secure}`, `https://${host}:${secure}`]) {
    say(`what ${new URL(origin).hostname === host ? "a site at another port" : "another site"} tries`);
    const page = await context.newPage();
    page.setDefaultTimeout(60000);
    await page.goto(`${origin}/`);
    for (const [name, target] of Object.entries(targets)) {
      for (const [what, attack] of Object.entries(ATTACKS)) {
        // Only what acts is tried for each thing that may be done.
        const acts = ["a form", "a script", "a beacon"].some((start) => what.startsWith(start));
        if (!acts && !["careless", "approve"].includes(name)) continue;
        // No browser lets a page do that, whatever the other site is like.
        const never = what === "a service worker of its own";
        const expected = name === "careless" && !never;
        const before = acted.length;
        const told = await attack(page, target);
        // What a page is not told may come a moment later.
        const until = Date.now() + 30000;
        while (acts && expected && !told && acted.length === before && Date.now() < until) {
          await page.waitForTimeout(20);
        }
        // The page may not be told, and the careless site acts; what the relay has done is
        // looked at in the end.
        const succeeded = told || (acts && acted.length > before);
        assert.equal(succeeded, expected, `${what}, ${name}, from ${origin}`);
      }
    }
    await page.close();
    assert.equal(await me(), "ana@example.org", "still signed in");
  }
  for (const what of ["POST", "DELETE", "WebSocket"]) {
    assert.ok(acted.filter((act) => act === what).length >= 2, `${what}: ${acted}`);
  }

  say("nothing installs itself between the console and the relay");
  const install = (script) => navigator.serviceWorker.register(script)
    .then(() => "installed", (error) => error.name);
  assert.equal(await own.evaluate(install, "/assets/dom.js"), "TypeError");
  const registered = await own.evaluate(async () => (await navigator.serviceWorker.getRegistrations()).length);
  assert.equal(registered, 0);
  const control = await context.newPage();
  await control.goto(`${CARELESS}/`);
  assert.equal(await control.evaluate(install, "/worker.js"), "installed");

  say("the browser keeps nothing of what it was told");
  const kept = (path) => fetch(path, { cache: "only-if-cached", mode: "same-origin" })
    .then((answer) => answer.ok, () => false);
  for (const path of ["/api/session", "/api/agents", "/api/audit", "/"]) {
    assert.ok(await own.evaluate(async (path) => (await fetch(path)).ok, path), path);
    assert.equal(await own.evaluate(kept, path), false, path);
  }
  assert.deepEqual(await own.evaluate(() => caches.keys()), []);
  await control.evaluate(async () => (await fetch("/secret")).text());
  assert.equal(await control.evaluate(kept, "/secret"), true);

  say("who has signed out is shown nothing by going back");
  await own.goto(`${RELAY}/`);
  await own.getByText("testbox").first().waitFor();
  // What the other sites tried, from our own page: it acts.
  const left = await own.evaluate(async () => (await fetch("/api/logout", { method: "POST" })).status);
  assert.equal(left, 204);
  await own.goto(`${CARELESS}/`);
  await own.goBack();
  await own.getByRole("heading", { name: "Sign in" }).waitFor();
  assert.ok(!(await own.locator("body").innerText()).includes("testbox"));

  await context.close();
  say("done");
  process.exit(0);
}

main().catch((error) => {
  say(error.stack);
  process.exit(1);
});
