// A person without a mouse: opens the link of `up`, and does everything by keys. Each
// place where the focus stops has to be seen, and what changes has to be told to
// somebody who does not see it. Prints one line of JSON for each thing that was done.
//
//   node keyboard.cjs LINK SCREENSHOT_DIR

const { chromium } = require("playwright-core");
const assert = require("node:assert/strict");

const [link, pictures] = process.argv.slice(2);
let page;

function tell(what, text = "") {
  process.stdout.write(JSON.stringify({ what, text }) + "\n");
}

// Runs in the page: what has the focus, and what is wrong with how that looks.
function focused() {
  const at = document.activeElement;
  const label = at.labels?.[0] ?? at;
  const name = at.getAttribute("aria-label") ?? label.textContent.trim();
  const shown = at.matches(".segments input") ? at.nextElementSibling : at;
  const { outlineStyle, outlineWidth, outlineOffset } = getComputedStyle(shown);
  const box = shown.getBoundingClientRect();
  const reach = parseFloat(outlineWidth) + parseFloat(outlineOffset);
  const [x, y] = [(box.left + box.right) / 2, (Math.max(box.top, 0) + Math.min(box.bottom, innerHeight)) / 2];
  const top = document.elementFromPoint(x, y);
  const faults = [];
  if (outlineStyle === "none" || parseFloat(outlineWidth) < 1) faults.push("its focus is not shown");
  if (!top || !(at.contains(top) || shown.contains(top) || top.contains(at))) faults.push("it is hidden");
  for (let around = shown.parentElement; around; around = around.parentElement) {
    const { overflowX, overflowY } = getComputedStyle(around);
    const edge = around.getBoundingClientRect();
    const above = overflowY !== "visible" && box.top - reach < edge.top && box.top >= edge.top;
    const beside = overflowX !== "visible" && box.left - reach < edge.left && box.left >= edge.left;
    if (above || beside) faults.push("its outline is cut off");
  }
  if (at.tabIndex > 0) faults.push("it has a place of its own in the order");
  return { name, isBody: at === document.body, faults };
}

// Runs in every page: notes what is added where a screen reader listens, and what ended
// while the page still waits for it.
function listen() {
  window.heard = [];
  window.late = [];
  const live = "[aria-live]:not([aria-live=off]), [role=log], [role=status], [role=alert]";
  const note = (node) => {
    const element = node.nodeType === Node.ELEMENT_NODE ? node : node.parentElement;
    if (element?.closest(live) && !element.closest("[aria-busy=true]")) window.heard.push(node.textContent);
  };
  const ends = (card) => {
    if (document.querySelector(".composer .danger:not([hidden])")) window.late.push(card.textContent);
  };
  new MutationObserver((changes) => {
    for (const { addedNodes, type, target } of changes) {
      if (type === "attributes") ends(target);
      else (type === "childList" ? addedNodes : [target]).forEach(note);
    }
  }).observe(document, { subtree: true, childList: true, characterData: true, attributeFilter: ["data-busy"] });
}

/** Presses `key` until the focus is on what is called `name`; the stops on the way. */
async function reach(name, key = "Tab") {
  const stops = [];
  while (stops.length < 40) {
    await page.keyboard.press(key);
    const at = await page.evaluate(focused);
    if (at.isBody) continue;
    assert.deepEqual(at.faults, [], `${at.name}, after ${stops}`);
    stops.push(at.name);
    if (at.name === name) return stops;
  }
  throw new Error(`${name} was not reached: ${stops}`);
}

async function press(name, key) {
  const stops = await reach(name, key);
  await page.keyboard.press("Enter");
  return stops;
}

async function type(text) {
  await page.keyboard.type(text);
  await page.keyboard.press("Enter");
}

const heard = (text) => page.waitForFunction(
  (wanted) => window.heard.join(" ").includes(wanted), text);

/** The page of this name is there, and its heading is where one goes on. */
async function arrives(name) {
  await page.getByRole("heading", { name }).waitFor();
  await page.waitForFunction(() => document.activeElement.tagName === "H1");
}

async function main() {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: ["--no-sandbox", "--host-resolver-rules=MAP katachi.localhost 127.0.0.1"],
  });
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  page = await context.newPage();
  page.setDefaultTimeout(60000);
  await page.addInitScript(listen);
  page.on("dialog", (dialog) => dialog.accept());
  const card = () => page.locator(".log article").last();
  const ended = () => page.waitForFunction(() => {
    const last = [...document.querySelectorAll(".log article")].at(-1);
    return last && !("busy" in last.dataset) && document.activeElement.tagName === "TEXTAREA";
  });

  await page.goto(link);
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  await press("Create an account");
  await page.getByRole("heading", { name: "Create your account" }).waitFor();
  await page.keyboard.type("mia@orchard.example");
  await reach("Password");
  await type("too short");
  await page.keyboard.press("Control+A");
  await type("a long enough password");
  await arrives("Is this your device?");
  await press("The codes match, approve");
  await arrives("Approved");
  await press("See your agents");
  await page.getByText("Online").first().waitFor();
  await page.evaluate(() => document.querySelector("a.agent-card").setAttribute("aria-label", "the agent"));
  await press("the agent");
  await arrives(/./);
  await page.getByText("End to end").waitFor();

  // Who came here by a link goes on in what it led to; from the top, all stops are in
  // the order in which they are read.
  assert.deepEqual(await reach("Work"), ["Work"]);
  await page.reload();
  await page.getByText("End to end").waitFor();
  const order = await reach("Run");
  assert.deepEqual(order, ["Skip to content", "Katachi", "Agents", "MCP", "Activity", "Account",
    "Change colours", "Sign out", "Work", "Command or message", "Command", "Run"]);
  await page.screenshot({ path: `${pictures}/focus.png` });

  await reach("Command or message", "Shift+Tab");
  await type("sh -c 'for i in 1 2 3; do echo tick $i; sleep 0.2; done'");
  await heard("tick 3");
  await heard("Exit 0");
  await ended();

  await type("touch approved-by-keys");
  await heard("Start touch approved-by-keys?");
  await press("Approve", "Shift+Tab");
  await card().getByText(/^Exit 0/).waitFor();
  await heard("Approved");
  await ended();
  tell("approved");

  await type("touch denied-by-keys");
  await card().getByRole("button", { name: "Deny" }).waitFor();
  await press("Deny", "Shift+Tab");
  await card().getByText(/^Exit 126/).waitFor();
  await ended();
  tell("denied");

  await type("sh -c 'while true; do echo still; sleep 0.2; done'");
  await heard("still");
  await press("Stop");
  await heard("Stopped");
  await ended();

  await reach("Command");
  await page.keyboard.press("ArrowRight");
  await reach("Command or message", "Shift+Tab");
  await type("when do plums ripen?");
  await heard("heard:when do plums ripen?");
  await heard("Answered");
  await ended();

  // The views of an agent, by arrows.
  await reach("Work", "Shift+Tab");
  const views = [["Denied", "a person denied it"], ["History", "2 messages"], ["Tools", "The account has no MCP configurations."], ["Settings", "(this browser)"]];
  for (const [name, text] of views) {
    await page.keyboard.press("ArrowRight");
    assert.equal((await page.evaluate(focused)).name, name);
    await page.locator("#panel").getByText(text).waitFor();
  }
  assert.deepEqual(await page.evaluate(() => window.late), [], "who typed on was not heard");
  await press("Remove");
  await heard("Removed");
  await press("Sign out", "Shift+Tab");
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  tell("done");
  await browser.close();
}

main().catch(async (error) => {
  const shown = await page.locator("body").innerText().catch(() => "");
  tell("error", `${error.stack}\n${shown}\n${JSON.stringify(await page.evaluate(() => window.heard).catch(() => []))}`);
  process.exit(1);
});
