// A person in a real browser, whose way to the relay leads through a balancer. Prints
// one line of JSON for each thing that the page showed, and does the next thing for
// each line on standard input.
//
//   node cluster.cjs LINK ADDRESS_OF_THE_BALANCER

const readline = require("node:readline");
const { chromium } = require("playwright-core");

const [link, balancer] = process.argv.slice(2);
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
    args: ["--no-sandbox", `--host-resolver-rules=MAP katachi.localhost ${balancer}`],
  });
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage();
  page.setDefaultTimeout(15000);
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  const cards = page.locator(".log article");
  const send = async (mode, text) => {
    await page.locator(`input[value=${mode}]`).check();
    await page.locator("textarea").fill(text);
    await page.keyboard.press("Enter");
    return cards.last();
  };
  const ended = (card) => card.and(page.locator("article:not([data-busy])")).waitFor();
  try {
    await page.goto(link);
    await page.getByText("Create an account").click();
    await page.locator("input[type=email]").fill("mia@orchard.example");
    await page.locator("input[type=password]").fill("a long enough password");
    await page.getByRole("button", { name: "Create account" }).click();
    await page.getByRole("button", { name: /approve/i }).click();
    await wait("connected");
    await page.goto(new URL("/", link).href);
    await page.getByText("Online").first().waitFor();
    await page.locator("a.agent-card").click();
    await page.getByText("End to end").waitFor();

    let card = await send("message", "when do plums ripen?");
    await card.getByText("tick 1").waitFor();
    tell("begins", await card.innerText());
    await card.getByText("tick 5").waitFor();
    await ended(card);

    card = await send("run", "touch approved-through-a");
    await card.getByRole("group", { name: "Approval" }).getByRole("button", { name: "Approve" }).click();
    await ended(card);
    tell("approved", await card.innerText());

    card = await send("run", "sh -c 'while true; do date +%s%N > beat; sleep 0.1; done'");
    await card.getByText(/^plan/).waitFor();
    await page.waitForTimeout(500);
    await page.getByRole("button", { name: "Stop" }).click();
    await ended(card);
    tell("stopped", await card.innerText());

    card = await send("message", "for ever");
    await card.getByText("tick 2").waitFor();
    tell("talking", await card.innerText());
    await wait("killed");
    await ended(card);
    tell("cut", await card.innerText());

    await page.getByText("Online").first().waitFor();
    card = await send("message", "and pears?");
    await card.getByText("tick 5").waitFor();
    await ended(card);
    card = await send("run", "touch approved-through-b");
    await card.getByRole("group", { name: "Approval" }).getByRole("button", { name: "Approve" }).click();
    await ended(card);
    tell("log", await page.locator(".log").innerText());
    tell("complaints", complaints.join("\n"));
  } catch (error) {
    tell("error", `${error}\n${complaints.join("\n")}\n${await page.locator("body").innerText()}`);
  }
  await browser.close();
  process.stdin.destroy();
}

main();
