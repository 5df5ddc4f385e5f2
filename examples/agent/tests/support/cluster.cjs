// A person in a real browser, whose way to the relay leads through a balancer. Prints
// one line of JSON for each thing that the page showed, and does the next thing for
// each line on standard input.
//
//   node cluster.cjs LINK ADDRESS_OF_THE_BALANCER

const { opens, signsUp, tell, wait } = require("./person.cjs");

const [link, balancer] = process.argv.slice(2);
async function main() {
  const { browser, page, complaints } = await opens(balancer);
  const cards = page.locator(".log article");
  const send = async (mode, text) => {
    await page.locator(`input[value=${mode}]`).check();
    await page.locator("textarea").fill(text);
    await page.keyboard.press("Enter");
    return cards.last();
  };
  const ended = (card) => card.and(page.locator("article:not([data-busy])")).waitFor();
  try {
    await (await signsUp(page, link)).click();
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

    // What it last said of itself may be that it is busy.
    await page.getByText(/^(Online|Busy)$/).first().waitFor();
    card = await send("message", "and pears?");
    await card.getByText("tick 5").waitFor();
    await ended(card);
    card = await send("run", "touch approved-through-b");
    await card.getByRole("group", { name: "Approval" }).getByRole("button", { name: "Approve" }).click();
    await ended(card);
    tell("log", await page.locator(".log").innerText());
    tell("complaints", complaints.join("\n"));
    // What the relay does know it is asked for until somebody found it there.
    await page.evaluate(() => {
      const ask = () => fetch("/api/me").finally(() => setTimeout(ask, 10));
      ask();
    });
    await wait("found");
  } catch (error) {
    tell("error", `${error}\n${complaints.join("\n")}\n${await page.locator("body").innerText()}`);
  }
  await browser.close();
  process.stdin.destroy();
}

main();
