// A person in a real browser, whose relay is run by somebody who means ill. Prints
// one line of JSON for each thing that the page showed, and does the next thing for
// each line on standard input.
//
//   node between.cjs LINK ADDRESS_OF_THE_RELAY

const readline = require("node:readline");
const { chromium } = require("playwright-core");

const [link, relay] = process.argv.slice(2);
const told = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

function tell(what, text) {
  process.stdout.write(JSON.stringify({ what, text }) + "\n");
}

async function main() {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: ["--no-sandbox", `--host-resolver-rules=MAP katachi.localhost ${relay}`],
  });
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage();
  // A channel may wait as long as the page does.
  page.setDefaultTimeout(90000);
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.goto(link);
  await page.getByText("Create an account").click();
  await page.locator("input[type=email]").fill("mia@orchard.example");
  await page.locator("input[type=password]").fill("a long enough password");
  await page.getByRole("button", { name: "Create account" }).click();
  await page.getByRole("button", { name: /approve/i }).click();
  await page.getByRole("heading", { name: "Approved" }).waitFor();
  await page.goto(new URL("/", link).href);
  await page.getByText("Online").first().waitFor();
  tell("online", "");
  const address = await page.locator("a.agent-card").evaluate((card) => card.href);
  for (;;) {
    const { value, done } = await told.next();
    if (done) break;
    const [word, text] = JSON.parse(value);
    if (word === "open") {
      await page.goto("about:blank");
      await page.goto(address);
      const chip = page.getByText(/^(End to end|Not paired)$/);
      await chip.waitFor();
      const status = page.locator("#status").filter({ hasText: /./ });
      if (await chip.innerText() === "Not paired") await status.waitFor();
      tell("opened", `${await chip.innerText()}: ${await page.locator("#status").innerText()}`);
    } else {
      const cards = page.locator(".log article");
      const count = await cards.count();
      await page.locator("textarea").fill(text);
      await page.keyboard.press("Enter");
      const card = cards.nth(count);
      await card.and(page.locator("article:not([data-busy])")).waitFor();
      tell("card", await card.innerText());
    }
  }
  tell("complaints", complaints.join("\n"));
  await browser.close();
}

main().catch((error) => {
  tell("error", String(error));
  process.exit(1);
});
