// A person in a real browser, to which no link was carried: pairs by comparing
// numbers. Prints one line of JSON for each thing that the page showed, and
// does the next thing for each line on standard input.
//
//   node numbers.cjs AGENT_PAGE EMAIL PASSWORD SCREENSHOT_DIR

const { opens, tell, wait } = require("./person.cjs");
const { looks } = require("../../../relay/tests/console/look.cjs");

const [address, email, password, pictures] = process.argv.slice(2);

async function main() {
  const { browser, page } = await opens();
  page.on("pageerror", (error) => tell("error", String(error)));
  const look = looks(page, pictures);
  try {
    await page.goto(address);
    await page.locator("input[type=email]").fill(email);
    await page.locator("input[type=password]").fill(password);
    await page.getByRole("button", { name: "Sign in" }).click();
    const compare = page.getByRole("button", { name: "Compare numbers" });
    await compare.waitFor();
    const problem = page.getByRole("form", { name: "Pair this browser" }).getByRole("alert");

    const refused = async () => {
      await problem.filter({ hasText: /./ }).waitFor();
      tell("refused", await problem.innerText());
    };
    await compare.click();
    await refused();

    for (const ends of ["refused", "paired"]) {
      await wait("begin");
      await compare.click();
      const numbers = page.locator(".numbers");
      await numbers.waitFor();
      if (ends === "paired") await look("numbers");
      tell("numbers", await numbers.innerText());
      if (ends === "refused") {
        await refused();
      } else {
        await wait("accepted");
        await page.getByRole("button", { name: "The machine accepted them" }).click();
      }
    }
    await page.getByText("End to end").waitFor();
    await page.locator("textarea").fill("echo through-numbers");
    await page.keyboard.press("Enter");
    await page.getByText(/^Exit \d+/).waitFor();
    tell("faults", look.faults.join("\n"));
    tell("log", await page.locator(".log").innerText());
  } catch (error) {
    tell("error", String(error));
  }
  await browser.close();
  process.stdin.destroy();
}

main();
