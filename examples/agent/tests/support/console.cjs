// A person in a real browser: opens the link of `up`, makes an account,
// approves the device, runs commands and sends a message. Prints one line of
// JSON for each thing that the page showed.
//
//   node console.cjs LINK SCREENSHOT_DIR

const { opens, signsUp, tell } = require("./person.cjs");
const { looks } = require("../../../relay/tests/console/look.cjs");

const [link, pictures] = process.argv.slice(2);

async function main() {
  const { browser, page, complaints } = await opens();
  const look = looks(page, pictures);
  page.on("request", (request) => {
    const host = new URL(request.url()).host;
    if (host !== new URL(link).host) tell("foreign", request.url());
  });
  try {
    const approve = await signsUp(page, link);
    await approve.waitFor();
    tell("device", await page.locator("main").innerText());
    await approve.click();
    await page.waitForTimeout(300);

    await page.goto(new URL("/", link).href);
    await page.getByText("Online").first().waitFor();
    tell("agents", await page.locator("main").innerText());
    await page.locator("a.agent-card").click();
    await page.locator("textarea").waitFor();
    await page.getByText("End to end").waitFor();
    tell("agent", await page.locator("main").innerText());

    for (const command of ["cat plums.txt", "echo quince-jelly-51c0de77", "curl http://elsewhere.example", "sh -c 'for i in 1 2 3; do echo tick $i; sleep 0.1; done'"]) {
      const ends = await page.getByText(/^Exit \d+/).count();
      await page.locator("textarea").fill(command);
      await page.keyboard.press("Enter");
      await page.getByText(/^Exit \d+/).nth(ends).waitFor();
    }
    // What the policy says to ask about is asked here, and signed.
    for (const [word, exit] of [["Deny", "Exit 126"], ["Approve", "Exit 0"]]) {
      const ends = await page.getByText(/^Exit \d+/).count();
      await page.locator("textarea").fill("touch approved-by-mia");
      await page.keyboard.press("Enter");
      const asked = page.getByRole("group", { name: "Approval" }).filter({ hasText: "Start this?" }).filter({ has: page.getByRole("button") });
      tell("asked", await asked.innerText());
      if (word === "Deny") await look("question");
      await asked.getByRole("button", { name: word }).click();
      await page.getByText(/^Exit \d+/).nth(ends).waitFor();
      tell("decided", `${word}: ${await page.getByText(/^Exit \d+/).nth(ends).innerText()}`);
    }
    // Another window is asked too, and its answer counts here.
    {
      const ends = await page.getByText(/^Exit \d+/).count();
      await page.locator("textarea").fill("touch approved-elsewhere");
      await page.keyboard.press("Enter");
      const other = await page.context().newPage();
      other.on("pageerror", (error) => tell("error", String(error)));
      await other.goto(page.url());
      const asked = other.getByRole("region", { name: "Waiting for you" }).getByRole("group", { name: "Approval" });
      tell("asked elsewhere", await asked.innerText());
      await asked.getByRole("button", { name: "Approve" }).click();
      await page.getByText(/^Exit \d+/).nth(ends).waitFor();
      tell("decided elsewhere", await page.getByText(/^Exit \d+/).nth(ends).innerText());
      await asked.waitFor({ state: "detached" });
      await other.close();
    }
    // What is stopped while it waits is asked no longer, here or in another window.
    {
      await page.locator("textarea").fill("touch never-approved");
      await page.keyboard.press("Enter");
      const card = page.locator(".log article").last();
      await card.getByRole("button", { name: "Approve" }).waitFor();
      const other = await page.context().newPage();
      other.on("pageerror", (error) => tell("error", String(error)));
      await other.goto(page.url());
      const asked = other.getByRole("region", { name: "Waiting for you" }).getByRole("group", { name: "Approval" });
      await asked.waitFor();
      await page.getByRole("button", { name: "Stop" }).click();
      await card.getByText("No longer asked").waitFor();
      tell("withdrawn", `${await card.innerText()}, ${await card.getByRole("button").count()} buttons`);
      await asked.waitFor({ state: "detached" });
      await other.close();
    }
    const ends = await page.getByText(/^Exit \d+/).count();
    await page.locator("input[value=message]").check();
    await page.locator("textarea").fill("when do plums ripen?");
    await page.keyboard.press("Enter");
    await page.getByText("heard:when do plums ripen?").first().waitFor();
    tell("ends", String(ends));
    tell("log", await page.locator(".log").innerText());
    // More than one piece of what carries it.
    await page.locator("textarea").fill(`${"plum ".repeat(20000)}\nand no more`);
    await page.keyboard.press("Enter");
    await page.getByText("heard:and no more").first().waitFor();
    // A configuration that this browser signs is one that its agent would start.
    const here = page.url();
    await page.goto(new URL("/#mcp", link).href);
    await page.getByRole("button", { name: "Add" }).click();
    await page.locator("input[name=name]").fill("weather");
    await page.locator("input[name=command]").fill("weather-mcp --stdio 'two words'");
    await page.getByRole("checkbox").check();
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByText("Released to").waitFor();
    await page.goto(here);
    await page.getByRole("tab", { name: "Tools" }).click();
    await page.getByRole("button", { name: "Start and list" }).click();
    await page.getByText("Failed").first().waitFor();
    await look("tools");
    tell("tools", await page.locator("#panel").innerText());
    await page.getByRole("tab", { name: "Settings" }).click();
    await page.getByText("(this browser)").waitFor();
    await look("devices");
    tell("devices", await page.locator("#panel").innerText());
    await page.getByRole("button", { name: "Remove", exact: true }).click();
    await page.getByText("(this browser)").waitFor({ state: "detached" });
    await page.reload();
    await page.getByText("Not paired").waitFor();
    tell("removed", await page.getByRole("form", { name: "Pair this browser" }).innerText());
    for (const fault of look.faults) tell("fault", fault);
  } catch (error) {
    tell("error", String(error));
    await page.screenshot({ path: `${pictures}/failed.png`, fullPage: true });
  }
  for (const complaint of complaints) tell("error", complaint);
  await browser.close();
}

main();
