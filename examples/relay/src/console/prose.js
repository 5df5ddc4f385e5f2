// Text of an AI, shown with the structure that it marks: headings, lists, code,
// tables, links (a part of CommonMark and of GitHub's tables). Elements are made one by
// one and nothing is parsed as HTML. Pictures are never loaded: the address of one could
// carry away what was read.
import { copy, h } from "./dom.js";

/** Longest paragraph whose marks are read; beyond it text stays as it is. */
const LONGEST = 8000;
/** How deep lists, quotes and marks may lie in each other. */
const DEEPEST = 8;
/** Longest block that is drawn again while it grows. */
const LONGEST_OPEN = 32768;

const FENCE = /^\s*(`{3,}|~{3,})\s*([\w+#.-]*)/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const RULE = /^ {0,3}([-*_])\s*(\1\s*){2,}$/;
const DELIMITERS = /^ {0,3}\|? *:?-+:? *(\| *:?-+:? *)*\|?$/;

/** An element that is written to piece by piece. What is finished stays as it is; only
 * its last block is drawn again, and is not read aloud before it is finished. */
export function prose() {
  const open = h("div", { class: "open", "aria-live": "off" });
  const element = h("div", { class: "prose" }, open);
  let lines = [];
  let last = "";
  let size = 0;
  let fence = null;
  let isList = false;

  const finish = () => {
    open.before(...blocks(lines, 0));
    open.replaceChildren();
    lines = [];
    size = 0;
    isList = false;
  };
  const take = (line) => {
    const mark = line.match(FENCE);
    if (!fence && lines.at(-1) === "") {
      if (line === "") return;
      // A blank line ends everything but a list.
      if (!isList || !(/^\s/.test(line) || ITEM.test(line))) finish();
    }
    if (!fence) isList ||= ITEM.test(line);
    if (fence ? closes(line, fence) : mark) fence = fence ? null : mark[1];
    lines.push(line);
    size += line.length + 1;
    if (size < LONGEST_OPEN) return;
    const again = fence;
    finish();
    if (again) lines.push(again);
  };
  return {
    element,
    write(text) {
      const parts = (last + text).split("\n");
      last = parts.pop();
      for (const part of parts) take(part.trimEnd());
      open.replaceChildren(...blocks(last === "" ? lines : [...lines, last], 0));
    },
    end() {
      if (last !== "") take(last);
      last = "";
      fence = null;
      finish();
    },
  };
}

function closes(line, fence) {
  const end = line.trim();
  return end.length >= fence.length && [...end].every((c) => c === fence[0]);
}

function blocks(lines, depth) {
  const made = [];
  let at = 0;
  const until = (stops) => {
    const from = at;
    at += 1;
    while (at < lines.length && !stops(lines[at])) at += 1;
    return lines.slice(from, at);
  };
  const begins = (line) => line === "" || FENCE.test(line) || ITEM.test(line) || HEADING.test(line) || /^\s*>/.test(line);
  while (at < lines.length) {
    const line = lines[at];
    const fence = line.match(FENCE);
    const heading = line.match(HEADING);
    if (line === "") {
      at += 1;
    } else if (fence) {
      const inner = until((later) => closes(later, fence[1])).slice(1);
      at += 1;
      made.push(code(dedent(inner, line.search(/\S/)).join("\n"), fence[2]));
    } else if (heading) {
      at += 1;
      made.push(h(`h${Math.min(6, heading[1].length + 2)}`, {}, inline(unclosed(heading[2]), 0)));
    } else if (RULE.test(line)) {
      at += 1;
      made.push(h("hr"));
    } else if (depth < DEEPEST && /^\s*>/.test(line)) {
      const inner = until((later) => !/^\s*>/.test(later)).map((one) => one.replace(/^\s*> ?/, ""));
      made.push(h("blockquote", {}, blocks(inner, depth + 1)));
    } else if (depth < DEEPEST && ITEM.test(line)) {
      made.push(list());
    } else if (line.includes("|") && DELIMITERS.test(lines[at + 1] ?? "") && lines[at + 1].includes("-")) {
      made.push(table(until((later) => later === "" || !later.includes("|"))));
    } else {
      made.push(h("p", {}, inline(until(begins).join("\n"), 0)));
    }
  }
  return made;

  /** Items of one kind that follow each other. */
  function list() {
    const [, , mark] = lines[at].match(ITEM);
    const margin = lines[at].search(/\S/);
    const isOrdered = /\d/.test(mark);
    const start = isOrdered ? parseInt(mark, 10) : 1;
    const items = [];
    while (at < lines.length) {
      const item = lines[at].match(ITEM);
      if (!item || item[1].length > margin + 1 || /\d/.test(item[2]) !== isOrdered) break;
      const inner = [item[3]];
      at += 1;
      let fence = item[3].match(FENCE)?.[1];
      while (at < lines.length) {
        const later = lines[at];
        const isBlank = later === "";
        const next = isBlank ? lines[at + 1] ?? "" : later;
        const belongs = fence || next.search(/\S/) > margin;
        const isLazy = !isBlank && lines[at - 1] !== "" && !begins(later);
        if (!belongs && !isLazy) break;
        if (fence ? closes(later, fence) : FENCE.test(later)) fence = fence ? null : later.match(FENCE)[1];
        inner.push(later);
        at += 1;
      }
      const margins = inner.slice(1).filter((one) => one !== "").map((one) => one.search(/\S/));
      const body = blocks([inner[0], ...dedent(inner.slice(1), Math.min(...margins, 64))], depth + 1);
      // An item of one paragraph reads as a line.
      const only = body.length > 0 && body[0].tagName === "P" ? [...body[0].childNodes, ...body.slice(1)] : body;
      items.push(h("li", {}, only));
      while (lines[at] === "" && ITEM.test(lines[at + 1] ?? "")) at += 1;
    }
    return isOrdered ? h("ol", { start: start === 1 ? null : start }, items) : h("ul", {}, items);
  }
}

/** A heading without the marks that may close it. */
function unclosed(text) {
  let end = text.length;
  while (text[end - 1] === "#") end -= 1;
  return end === 0 || text[end - 1] === " " ? text.slice(0, end).trimEnd() : text;
}

function dedent(lines, margin) {
  return lines.map((line) => line.slice(Math.min(margin, Math.max(0, line.search(/\S|$/)))));
}

function code(text, language) {
  return h("div", { class: "snippet" },
    h("div", { class: "row spread small muted" }, h("span", {}, language || "text"),
      h("button", { type: "button", class: "plain tiny", onclick: () => copy(text) }, "Copy")),
    h("pre", { tabindex: "0", "aria-label": language ? `Code, ${language}` : "Code" }, h("code", {}, text)));
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const [head, , ...rest] = lines;
  return h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" }, h("table", {},
    h("thead", {}, h("tr", {}, cells(head).map((cell) => h("th", { scope: "col" }, inline(cell, 0))))),
    h("tbody", {}, rest.map((line) => h("tr", {}, cells(line).map((cell) => h("td", {}, inline(cell, 0))))))));
}

// What may stand inside a line, in the order in which it is tried.
const MARKS = new RegExp([
  String.raw`\\([!-/:-@[-\x60{-~])`, // 1: an escaped mark
  String.raw`(\x60+)(?!\x60)([^]*?[^\x60])\2(?!\x60)`, // 2, 3: code
  String.raw`!?\[([^\[\]]*)\]\(\s*<?([^\s()<>]*(?:\([^\s()<>]*\)[^\s()<>]*)*)>?(?:\s+"[^"]*")?\s*\)`, // 4, 5: a link
  String.raw`(https?:\/\/[^\s<>"'\x60]*[^\s<>"'\x60.,:;!?)\]*_~])`, // 6: an address
  String.raw`(\*\*|__|~~)(?=\S)([^]*?\S)\7`, // 7, 8: strong, struck
  String.raw`(?<![\w*])\*(?=[^\s*])([^*]*[^\s*])\*(?!\*)`, // 9: stressed
  String.raw`(?<!\w)_(?=[^\s_])([^_]*[^\s_])_(?!\w)`, // 10: stressed
].join("|"), "g");

/** The nodes of one line or paragraph. */
function inline(text, depth) {
  if (text.length > LONGEST || depth >= DEEPEST) return [text];
  const made = [];
  let at = 0;
  for (const found of text.matchAll(MARKS)) {
    if (found.index > at) made.push(text.slice(at, found.index));
    at = found.index + found[0].length;
    const [whole, escaped, , quoted, label, target, address, mark, marked, star, under] = found;
    if (escaped !== undefined) made.push(escaped);
    else if (quoted !== undefined) made.push(h("code", {}, quoted.replace(/^ (.*\S.*) $/, "$1")));
    else if (address !== undefined) made.push(link(address, [address]));
    else if (target !== undefined) made.push(whole.startsWith("!")
      ? link(target, [`picture: ${label || target}`])
      : link(target, inline(label || target, depth + 1)));
    else if (mark !== undefined) made.push(h(mark === "~~" ? "del" : "strong", {}, inline(marked, depth + 1)));
    else made.push(h("em", {}, inline(star ?? under, depth + 1)));
  }
  if (at < text.length) made.push(text.slice(at));
  return made;
}

/** A link to the web, which says where it leads; anything else stays text. */
function link(target, label) {
  if (!/^(https?:\/\/|mailto:)/i.test(target)) return h("span", {}, label, ` (${target})`);
  return h("a", { href: target, title: target, target: "_blank", rel: "noopener noreferrer" }, label);
}
