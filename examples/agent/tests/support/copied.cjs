// The owner of an agent whose key somebody copied, in a real browser. Prints one line of
// JSON for each thing that the page showed, and does the next thing for each line on
// standard input.
//
//   node copied.cjs LINK ADDRESS_OF_THE_RELAY SCREENSHOT_DIR

const { opens, signsUp, tell, wait } = require("./person.cjs");
const { looks } = require("../../../relay/tests/console/look.cjs");

const [link, relay, pictures] = process.argv.slice(2);

async function main() {
  const { browser, page, complaints } = await opens(relay);
  const look = looks(page, pictures);
  try {
    await (await signsUp(page, link)).click();
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
