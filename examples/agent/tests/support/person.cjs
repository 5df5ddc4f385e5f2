// A person's browser, and how a script that plays one speaks with its test: it prints a
// line of JSON for each thing that the page showed, and hears a line for each next thing.

const readline = require("node:readline");
const { chromium } = require("playwright-core");

const EMAIL = "mia@orchard.example";
const PASSWORD = "a long enough password";

let told;

/** The next line from the test; undefined after the last. */
async function hear() {
  told ??= readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  return (await told.next()).value;
}

exports.hear = hear;

exports.wait = async (word) => {
  const heard = await hear();
  if (heard !== word) throw new Error(`told ${heard} where ${word} was expected`);
};

exports.tell = (what, text = "") => {
  process.stdout.write(JSON.stringify({ what, text }) + "\n");
};

/** A page whose relay is reached at `address`, and what it complains of. */
exports.opens = async (address = "127.0.0.1") => {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: ["--no-sandbox", `--host-resolver-rules=MAP katachi.localhost ${address}`],
  });
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage();
  page.setDefaultTimeout(60000);
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  return { browser, page, complaints };
};

/** Makes an account where a link of `up` leads, up to the button that approves. */
exports.signsUp = async (page, link) => {
  await page.goto(link);
  await page.getByText("Create an account").click();
  await page.locator("input[type=email]").fill(EMAIL);
  await page.locator("input[type=password]").fill(PASSWORD);
  await page.getByRole("button", { name: "Create account" }).click();
  return page.getByRole("button", { name: /approve/i });
};
