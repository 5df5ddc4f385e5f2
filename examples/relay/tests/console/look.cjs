// What every view has to be: without a fault against WCAG 2.2 A and AA that axe-core
// sees, and no wider than its window, in both themes, on a screen and on a phone. The
// pictures are kept.
const axe = require("axe-core");

const SIZES = [["", { width: 1200, height: 820 }], ["-phone", { width: 375, height: 740 }]];
const LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];

// Runs in the page: the innermost element that reaches beyond the window.
function tooWide() {
  if (document.documentElement.scrollWidth <= innerWidth) return null;
  const beyond = [...document.querySelectorAll("body *")].filter((one) => one.getBoundingClientRect().right > innerWidth);
  return (beyond.at(-1) ?? document.body).outerHTML.slice(0, 160);
}

/** `look(name)` looks at what `page` shows; `look.faults` is what it found. */
exports.looks = (page, folder) => {
  const faults = [];
  const once = async (name) => {
    const wide = await page.evaluate(tooWide);
    if (wide) faults.push(`${name}: ${wide} is wider than the window`);
    // Nothing lies behind what sticks to the window's edges where all of it is shown.
    const size = page.viewportSize();
    const [height, from] = await page.evaluate(() => [document.documentElement.scrollHeight, scrollY]);
    await page.setViewportSize({ ...size, height: Math.max(size.height, height) });
    if (await page.evaluate(() => !window.axe)) await page.evaluate(`${axe.source}\n;void 0`);
    const found = await page.evaluate(
      (values) => window.axe.run(document, { runOnly: { type: "tag", values }, resultTypes: ["violations"] }), LEVELS);
    for (const { id, help, nodes } of found.violations) {
      for (const node of nodes) faults.push(`${name}: ${id}, ${help}: ${node.html.slice(0, 160)}\n    ${node.failureSummary.replaceAll("\n", " ").slice(0, 240)}`);
    }
    await page.setViewportSize(size);
    await page.evaluate((top) => scrollTo(0, top), from);
    await page.screenshot({ path: `${folder}/${name}.png` });
  };
  const look = async (name) => {
    const before = page.viewportSize();
    const theme = await page.evaluate(() => document.documentElement.dataset.theme);
    for (const colours of ["light", "dark"]) {
      await page.evaluate((value) => { document.documentElement.dataset.theme = value; }, colours);
      for (const [suffix, size] of SIZES) {
        await page.setViewportSize(size);
        await once(`${name}-${colours}${suffix}`);
      }
    }
    await page.setViewportSize(before);
    await page.evaluate((value) => {
      if (value) document.documentElement.dataset.theme = value;
      else delete document.documentElement.dataset.theme;
    }, theme);
  };
  return Object.assign(look, { faults });
};
