// The owner of an agent whose key somebody copied, in a real browser. Prints one line of
// JSON for each thing that the page showed, and does the next thing for each line on
// standard input.
//
//   node copied.cjs LINK ADDRESS_OF_THE_RELAY SCREENSHOT_DIR

const readline = require("node:readline");
const { chromium } = require("playwright-core");
const { looks } = require("../../../relay/tests/console/look.cjs");

const [link, relay, pictures] = process.argv.slice(2);
const told = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

function tell(what, text) {
  process.stdout.write(JSON.stringify({ what, text }) + "\n");
}

async function wait(word) {
  const { value } = await told.next();
  if (value !== word) throw new Error(`told ${value} where ${word} was expected`);
}

async function main() {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: ["--no-sandbox", `--host-resolver-rules=MAP katachi.localhost ${relay}`],
  });
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage();
  page.setDefaultTimeout(20000);
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  const look = looks(page, pictures);
  try {
    await page.goto(link);
    await page.getByText("Create an account").click();
    await page.locator("input[type=email]").fill("mia@orchard.example");
    await page.locator("input[type=password]").fill("a long enough password");
    await page.getByRole("button", { name: "Create account" }).click();
    await page.getByRole("button", { name: /approve/i }).click();
    await page.goto(new URL("/", link).href);
    await page.getByText("Online").first().waitFor();
    await page.locator("a.agent-card").click();
    await page.getByText("End to end").waitFor();
    tell("open", "");

    // Whoever has the page open is told there.
    await wait("two places");
    const alert = page.getByRole("alert").filter({ hasText: "Kept out" });
    await alert.waitFor();
    await look("kept-out");
    tell("asked", await page.locator("main").innerText());
    await page.reload();
    await alert.waitFor();
    await wait("one place");
    await alert.getByRole("button", { name: "Let it in again" }).click();
    await alert.waitFor({ state: "detached" });
    await wait("connected");
    await page.getByText("Online").first().waitFor();
    await page.goto(new URL("/#activity", link).href);
    await page.getByText("agent released").first().waitFor();
    tell("activity", await page.locator("main").innerText());
    tell("faults", [...complaints, ...look.faults].join("\n"));
  } catch (error) {
    tell("error", `${error}\n${complaints.join("\n")}\n${await page.locator("body").innerText()}`);
  }
  await browser.close();
  process.stdin.destroy();
}

main();
