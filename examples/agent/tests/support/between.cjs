// A person in a real browser, whose relay is run by somebody who means ill. Prints
// one line of JSON for each thing that the page showed, and does the next thing for
// each line on standard input.
//
//   node between.cjs LINK ADDRESS_OF_THE_RELAY

const { hear, opens, signsUp, tell } = require("./person.cjs");

const [link, relay] = process.argv.slice(2);

async function main() {
  const { browser, page } = await opens(relay);
  // A channel may wait as long as the page does.
  page.setDefaultTimeout(90000);
  // What it says in its console is no fault here: the relay means ill.
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  await (await signsUp(page, link)).click();
  await page.getByRole("heading", { name: "Approved" }).waitFor();
  await page.goto(new URL("/", link).href);
  await page.getByText("Online").first().waitFor();
  tell("online", "");
  const address = await page.locator("a.agent-card").evaluate((card) => card.href);
  for (let told = await hear(); told !== undefined; told = await hear()) {
    const [word, text] = JSON.parse(told);
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
  tell("complaints", errors.join("\n"));
  await browser.close();
}

main().catch((error) => {
  tell("error", String(error));
  process.exit(1);
});
