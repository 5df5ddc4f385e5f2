// Plays a person who signs in at a provider, by password, and with links in mail.
const { chromium } = require("playwright-core");
const assert = require("node:assert/strict");
const fs = require("node:fs");
const { looks } = require("../console/look.cjs");

const { RELAY, ISSUER, MAIL, SHOTS, CHROMIUM } = process.env;
const complaints = [];
const foreign = [];
const say = (text) => process.stdout.write(`${text}\n`);
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** The link of this kind in the newest mail to `address`. */
async function mailed(address, kind) {
  for (let tries = 0; tries < 200; tries += 1) {
    const mails = fs.readdirSync(MAIL).filter((name) => name.endsWith(".eml"))
      .map((name) => fs.readFileSync(`${MAIL}/${name}`, "utf8").replaceAll("=\r\n", ""))
      .filter((text) => text.includes(`To: ${address}`) && text.includes(`/#${kind}/`));
    if (mails.length === 1) return /https:\S+\/#\w+\/[\w-]{43}/.exec(mails[0])[0];
    await pause(25);
  }
  throw new Error(`no mail to ${address}`);
}

async function main() {
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
  const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1200, height: 820 } });
  const page = await context.newPage();
  page.setDefaultTimeout(60000);
  page.on("console", (message) => {
    // What the relay refuses is noted by the browser as well.
    if (/status of 4\d\d/.test(message.text())) return;
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => {
    const known = [RELAY, ISSUER, "data:"].some((start) => request.url().startsWith(start));
    if (!known) foreign.push(request.url());
  });
  const look = looks(page, SHOTS);
  // Who the person is at the provider.
  let hint = "ana";
  await context.route(`${ISSUER}/auth?*`, (route) =>
    route.continue({ url: `${route.request().url()}&login_hint=${hint}` }));
  const atProvider = async (who) => {
    hint = who;
    await context.clearCookies({ domain: "127.0.0.1" });
  };
  const signOut = async () => {
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByRole("heading", { name: "Sign in" }).waitFor();
  };
  const press = async (name) => {
    await page.getByRole("button", { name }).focus();
    await page.keyboard.press("Enter");
  };

  say("in by a provider, with the keyboard, back to where one was");
  await page.goto(`${RELAY}/device`);
  await page.getByRole("group", { name: "Other ways in" }).waitFor();
  await look("ways-in");
  await press("Continue with Work account");
  await page.getByRole("heading", { name: "Connect a device" }).waitFor();
  assert.equal(new URL(page.url()).pathname, "/device");
  assert.equal(await page.locator("#who").textContent(), "ana@example.com");
  assert.ok(await page.locator("#notice").isHidden(), "the provider vouches for the address");

  say("the only way in stays");
  await page.getByRole("link", { name: "Account" }).click();
  await page.getByText("Confirmed", { exact: true }).waitFor();
  await page.getByText("Work account as ANA").waitFor();
  await press("Unlink Work account, ANA");
  await page.getByRole("alert").filter({ hasText: "only way into your account" }).waitFor();
  await press("Send a link that sets one");
  await mailed("ana@example.com", "reset");
  await look("account");

  say("a new account confirms its address");
  await signOut();
  await page.getByRole("link", { name: "Create an account" }).click();
  await page.getByLabel("E-mail").fill("ben@example.com");
  await page.getByLabel("Password").fill("correct horse battery");
  await page.keyboard.press("Enter");
  const signIn = async () => {
    await page.getByLabel("E-mail").fill("ben@example.com");
    await page.getByLabel("Password").fill("correct horse battery");
    await page.keyboard.press("Enter");
  };
  await page.getByRole("status").filter({ hasText: "A mail is on its way to ben@example.com" }).waitFor();
  await look("not-confirmed");
  await signIn();
  await page.getByRole("alert").filter({ hasText: "open the link that was sent" }).waitFor();
  await page.goto(await mailed("ben@example.com", "verify"));
  await page.getByRole("status").filter({ hasText: "your address is confirmed" }).waitFor();
  assert.ok(!page.url().includes("verify"), "the token left the address");
  await signIn();
  await page.getByRole("heading", { name: "Agents" }).waitFor();
  assert.equal(await page.locator("#who").textContent(), "ben@example.com");
  assert.ok(await page.getByRole("region", { name: "Your address" }).isHidden());

  say("links the provider from inside, and unlinks it");
  await atProvider("ben");
  await page.getByRole("link", { name: "Account" }).click();
  await press("Link Work account");
  await page.getByText("Work account as BEN").waitFor();
  assert.equal(new URL(page.url()).hash, "#account");
  await press("Unlink Work account, BEN");
  await page.getByText("Work account as BEN").waitFor({ state: "detached" });

  say("forgets the password, and sets another");
  await signOut();
  await page.getByRole("link", { name: "Forgot your password?" }).click();
  await look("forgot-password");
  await page.getByLabel("E-mail").fill("ben@example.com");
  await page.keyboard.press("Enter");
  await page.getByRole("status").filter({ hasText: "a link is on its way" }).waitFor();
  const link = await mailed("ben@example.com", "reset");
  const reset = async (password) => {
    await page.goto("about:blank");
    await page.goto(link);
    await page.getByLabel("New password").fill(password);
    if (password.startsWith("yet")) await look("new-password");
    assert.ok(!page.url().includes("reset"), "the token left the address");
    await page.keyboard.press("Enter");
  };
  await reset("a new battery staple");
  await page.getByRole("status").filter({ hasText: "Your password was changed" }).waitFor();
  await page.getByLabel("E-mail").fill("ben@example.com");
  await page.getByLabel("Password").fill("a new battery staple");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Agents" }).waitFor();
  await reset("yet another staple");
  await page.getByRole("alert").filter({ hasText: "used already" }).waitFor();

  say("a refusal in plain words, without a script");
  await context.clearCookies();
  await atProvider("eve~unverified");
  await page.goto(RELAY);
  await press("Continue with Work account");
  await page.getByRole("heading", { name: "That did not work" }).waitFor();
  await page.getByRole("alert").filter({ hasText: "does not vouch" }).waitFor();
  assert.equal(await page.locator("script").count(), 0);
  await look("refused");
  await page.getByRole("link", { name: "Back" }).click();
  await page.getByRole("heading", { name: "Sign in" }).waitFor();

  await browser.close();
  assert.deepEqual(look.faults, [], "faults of accessibility");
  assert.deepEqual(foreign, [], "asked somebody else");
  assert.deepEqual(complaints, [], "the browser complained");
}

main().catch((error) => {
  process.stdout.write(`${error.stack}\n`);
  process.exit(1);
});
