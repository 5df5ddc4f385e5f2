// Plays a person at the console. Speaks with the test by lines: "approved"
// out, "connected" in.
const { chromium } = require("playwright-core");
const assert = require("node:assert/strict");
const prose = require("./prose.cjs");
const readline = require("node:readline");
const { looks } = require("./look.cjs");

const { RELAY, USER_CODE, UNWANTED_CODE, SHOTS, CHROMIUM, FRAGMENT } = process.env;
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const complaints = [];
const foreign = [];
let page;

async function main() {
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
  const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1200, height: 820 } });
  page = await context.newPage();
  page.setDefaultTimeout(60000);
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => {
    if (!request.url().startsWith(RELAY) && !request.url().startsWith("data:")) foreign.push(request.url());
  });
  // Only what removes something asks.
  page.on("dialog", (dialog) => dialog.accept());
  const look = looks(page, SHOTS);
  const say = (text) => process.stdout.write(`${text}\n`);
  /** Has the machine do something. */
  const told = async (what, done) => {
    say(what);
    assert.equal((await lines.next()).value, done);
  };

  say("sign up, with the code in the link");
  await page.goto(`${RELAY}/device?user_code=${USER_CODE}`);
  await look("sign-in");
  await page.getByRole("link", { name: "Create an account" }).click();
  await look("sign-up");
  await page.getByLabel("E-mail").fill("ana@example.org");
  await page.getByLabel("Password").fill("correct horse battery");
  await page.keyboard.press("Enter");

  say("compare and approve the device");
  await page.getByText(USER_CODE, { exact: true }).waitFor();
  await page.getByText("testbox").waitFor();
  await look("device");
  await page.getByRole("button", { name: "The codes match" }).click();
  await page.getByRole("heading", { name: "Approved" }).waitFor();
  await look("approved");

  say("deny another device");
  await page.goto(`${RELAY}/device`);
  await page.getByLabel("Code from the terminal").fill(UNWANTED_CODE);
  await look("code");
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Deny" }).click();
  await page.getByRole("heading", { name: "Denied" }).waitFor();
  await look("device-denied");
  await page.getByRole("link", { name: "Back to your agents" }).click();
  await page.getByText("No agent yet").waitFor();
  await look("no-agent");
  await told("approved", "connected");

  say("the agent is online");
  await page.getByText("Online").waitFor();
  await look("agents");
  await page.getByRole("link", { name: /testbox/ }).click();

  say("nothing is asked before the browser is paired");
  await page.getByText("Not paired").waitFor();
  const input = page.getByLabel("Command or message");
  await input.fill("ls -l");
  await input.press("Enter");
  await page.getByText("This browser is not paired").waitFor();
  await look("not-paired");

  say("the link of the agent pairs it");
  const agentHash = await page.evaluate(() => location.hash);
  await page.goto(`${RELAY}/#${FRAGMENT}`);
  await page.getByRole("link", { name: /testbox/ }).waitFor();
  assert.ok(!page.url().includes("pair/"), "the secret left the address");
  await page.goto(`${RELAY}/${agentHash}`);
  await page.getByText("End to end").waitFor();
  await page.getByText("workspace atlas").waitFor();
  await page.getByText("cloudflared with 4 connections, 2 errors").waitFor();

  say("its private keys cannot be read, by any script");
  const keys = await page.evaluate(privateKeys);
  assert.deepEqual(keys.map((key) => key.algorithm).sort(), ["Ed25519", "X25519"]);
  for (const key of keys) {
    assert.ok(!key.extractable, `${key.algorithm} is extractable`);
    assert.equal(key.exported, "InvalidAccessError", key.algorithm);
  }

  say("run a command by keyboard alone");
  await input.fill("ls -l");
  await input.press("Enter");
  await page.getByText("line 3").waitFor();
  await page.getByText(/^Exit 0/).waitFor();
  assert.equal(await page.title(), "testbox · Katachi", "what a machine printed is text");
  assert.equal(await page.locator("img").count(), 0);

  say("an action is denied, with the line that would allow it");
  await input.fill("cat /etc/shadow");
  await input.press("Enter");
  await page.getByText('filesystem.read = ["/etc/shadow"]').waitFor();
  await page.getByText(/^Exit 1/).waitFor();

  say("a long command is stopped");
  await input.fill("sleep 60");
  await input.press("Enter");
  await page.getByText("tick 2").waitFor();
  await look("running");
  await input.press("Escape");
  await page.getByText("Stopped").waitFor();

  say("a message is answered piece by piece");
  await page.getByRole("radio", { name: "Message" }).check();
  await input.fill("hello there");
  await page.getByRole("button", { name: "Send" }).click();
  await page.getByText("You wrote: hello there").waitFor();
  await page.getByText(/^Answered/).waitFor();
  await look("work");

  say("the agent goes, and comes back");
  await told("leave", "left");
  await page.getByText("Offline").waitFor();
  await look("offline");
  await page.getByRole("radio", { name: "Command" }).check();
  await input.fill("ls -l");
  await input.press("Enter");
  await page.getByText("The agent cannot be reached now").waitFor();
  await look("asked-while-offline");
  // What cannot be reached is noted by the browser as well.
  assert.match(complaints.pop() ?? "", /WebSocket connection to .* failed/);
  await told("return", "connected");
  await page.getByText("Online").waitFor();
  await input.fill("ls -l");
  await input.press("Enter");
  await page.locator("article").last().getByText(/^Exit 0/).waitFor();
  await page.getByRole("radio", { name: "Message" }).check();

  say("denials, history and settings, by arrow keys");
  await page.getByRole("tab", { name: "Work" }).focus();
  await page.keyboard.press("ArrowRight");
  await page.getByText("outside what the policy lets be read").waitFor();
  await look("denied");
  await page.keyboard.press("ArrowRight");
  await page.getByText("4 messages, 1 interrupted").waitFor();
  await page.getByLabel("Search the history").fill("plums");
  await page.keyboard.press("Enter");
  await page.locator("mark").first().waitFor();
  await look("history");

  say("an earlier conversation is opened, goes on, and is forgotten");
  await page.getByRole("button", { name: "Open conversation" }).first().click();
  await page.getByText("Conversation: where is the parser for plums?").waitFor();
  const cards = page.locator(".log article");
  assert.equal(await cards.count(), 2);
  assert.match(await cards.nth(0).locator("ol pre").innerText(), /^cargo test -p plums$/);
  assert.equal(await cards.nth(0).locator("td").nth(1).innerText(), "plum");
  await cards.nth(1).getByText("Interrupted").waitFor();
  await look("conversation");
  await input.fill("go on");
  await input.press("Enter");
  assert.equal(await cards.nth(2).locator("strong").innerText(), "s1");
  await cards.nth(2).getByText(/^Answered/).waitFor();
  await page.getByRole("button", { name: "Begin a new one" }).click();
  assert.equal(await cards.count(), 0);
  await input.fill("something else");
  await input.press("Enter");
  await page.getByText(/^Answered/).waitFor();
  assert.equal(await cards.locator("strong").count(), 0);
  await page.getByRole("tab", { name: "History" }).click();
  await page.getByRole("button", { name: "Forget" }).click();
  await page.getByText("No conversation yet").waitFor();

  say("what an AI marks is shown, and nothing of it runs");
  await prose(page);
  await page.getByRole("tab", { name: "Settings" }).click();
  await page.getByText("Identifier").waitFor();
  await look("settings");

  say("an MCP configuration with a secret");
  await page.getByRole("link", { name: "MCP" }).click();
  await page.getByRole("button", { name: "Add", exact: true }).click();
  await page.getByLabel("Name", { exact: true }).fill("github");
  await page.getByLabel("Command").fill('npx -y "@modelcontextprotocol/server-github"');
  await page.getByRole("button", { name: "Add a secret" }).click();
  await page.getByLabel("Secrets: name").fill("GITHUB_TOKEN");
  await page.getByLabel("Secrets: value").fill("canary-token");
  await page.getByLabel("testbox").check();
  await look("mcp-form");
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByText("Released to testbox").waitFor();
  await page.getByRole("button", { name: "What the database holds" }).click();
  await page.getByText(/^S1RD/).first().waitFor();
  assert.ok(!(await page.content()).includes("canary-token"));
  await look("mcp");

  say("it is changed, and deleted");
  await page.getByRole("button", { name: "Change", exact: true }).click();
  await page.getByLabel("Command").fill("npx -y @modelcontextprotocol/server-github --verbose");
  await page.getByLabel("Secrets: value").fill("canary-token");
  await look("mcp-change");
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByText("version 2").waitFor();
  await page.getByText("--verbose").waitFor();
  await page.getByRole("button", { name: "Delete" }).click();
  await page.getByText("None yet.").waitFor();
  await look("mcp-none");

  say("the activity");
  await page.getByRole("link", { name: "Activity" }).click();
  await page.getByText("Chain intact").waitFor();
  await page.getByText("agent connected").waitFor();
  await look("activity");

  say("the colours are the person's");
  const before = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await page.getByRole("button", { name: "Change colours" }).click();
  const after = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  assert.notEqual(before, after);
  await page.getByRole("button", { name: "Change colours" }).click();

  say("reload keeps the session, sign out ends it");
  await page.reload();
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  const session = await page.evaluate(async () => (await fetch("/api/session")).json());
  assert.deepEqual(session, { me: null });

  say("another site can neither frame nor act");
  const attacker = await context.newPage();
  await attacker.setContent(`<iframe src="${RELAY}/"></iframe>`);
  await attacker.waitForTimeout(500);
  const framed = attacker.frames().find((frame) => frame !== attacker.mainFrame());
  const inside = await framed.evaluate(() => document.body?.innerText ?? "").catch(() => "");
  assert.ok(!inside.includes("Sign in"), "the console was framed");

  say("a script that was altered on its way does not run");
  const original = await page.evaluate(async () => (await fetch("/assets/dom.js")).text());
  for (const [altered, runs] of [["", true], ["\nwindow.altered = true;", false]]) {
    const fresh = await browser.newContext({ ignoreHTTPSErrors: true });
    const victim = await fresh.newPage();
    const complained = [];
    victim.on("console", (message) => complained.push(message.text()));
    await victim.route("**/assets/dom.js", (route) =>
      route.fulfill({ contentType: "text/javascript; charset=utf-8", body: original + altered }));
    await victim.goto(RELAY);
    if (runs) {
      await victim.getByRole("heading", { name: "Sign in" }).waitFor();
      assert.deepEqual(complained, []);
    } else {
      while (!complained.some((text) => text.includes("integrity"))) await victim.waitForTimeout(50);
      assert.equal(await victim.evaluate(() => window.altered), undefined);
      assert.equal(await victim.getByRole("heading").count(), 0);
    }
    await fresh.close();
  }

  say("a fault of accessibility would be found");
  await page.evaluate(() => {
    const image = document.createElement("img");
    image.src = "/assets/icon.svg";
    image.style.marginLeft = "2000px";
    document.getElementById("main").append(image);
  });
  const wrong = looks(page, SHOTS);
  await wrong("with-a-fault");
  for (const fault of ["image-alt", "wider than the window"]) {
    assert.equal(wrong.faults.filter((found) => found.includes(fault)).length, 4, fault);
  }

  await browser.close();
  assert.deepEqual(look.faults, [], "faults of accessibility");
  assert.deepEqual(foreign, [], "asked somebody else");
  assert.deepEqual(complaints, [], "the browser complained");
  say("done");
  // The open standard input would keep it alive.
  process.exit(0);
}

// Runs in the page: every private key that it keeps, and what comes of exporting it.
async function privateKeys() {
  const all = (request) => new Promise((done, fail) => {
    request.onsuccess = () => done(request.result);
    request.onerror = () => fail(request.error);
  });
  const database = await all(indexedDB.open("katachi"));
  const kept = await all(database.transaction("agents").objectStore("agents").getAll());
  database.close();
  const found = [];
  const walk = (value) => {
    if (value instanceof CryptoKey) found.push(value);
    else if (value && typeof value === "object") Object.values(value).forEach(walk);
  };
  kept.forEach(walk);
  const secret = found.filter((key) => key.type === "private");
  return Promise.all(secret.map(async (key) => ({
    algorithm: key.algorithm.name,
    extractable: key.extractable,
    exported: await crypto.subtle.exportKey("pkcs8", key).then(() => "it was", (error) => error.name),
  })));
}

main().catch(async (error) => {
  process.stdout.write(`${error.stack}\n`);
  const shown = await page.locator("body").innerText().catch(() => "");
  process.stdout.write(`${complaints.join("\n")}\n${shown}\n`);
  process.exit(1);
});
