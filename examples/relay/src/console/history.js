// The conversations that the agent keeps: listed, searched, opened again, forgotten.
import { attempt, h, problemBox, say, when } from "./dom.js";
import { ask } from "./channel.js";
import { failed } from "./agents.js";

/** The view of one agent's history; `open` goes on with a conversation. */
export function history(id, open) {
  const list = h("div", { class: "card", "aria-live": "polite" });
  const box = problemBox();
  const input = h("input", { type: "search", name: "q", placeholder: "Words to find", "aria-label": "Search the history", maxlength: 256 });
  const opens = (session, label) => h("button", {
    type: "button", class: "plain tiny",
    onclick: (event) => attempt(event.target.closest(".hit"), box, () => open(session)),
  }, label);
  const forgets = ({ session, title }) => h("button", {
    type: "button", class: "danger tiny",
    onclick: (event) => {
      const entry = event.target.closest(".hit");
      if (!confirm(`Forget “${title}” for ever?`)) return;
      attempt(entry, box, async () => {
        await ask(id, "DELETE", `/v1/sessions/${session}`);
        say("Forgotten");
        await show();
      });
    },
  }, "Forget");
  const conversation = (entry) => h("div", { class: "hit row" },
    h("div", { class: "grow" },
      h("p", { class: "title" }, entry.title),
      h("p", { class: "small muted" }, `${entry.messages} message${entry.messages === 1 ? "" : "s"}${entry.interrupted ? `, ${entry.interrupted} interrupted` : ""}`, entry.at ? [" · ", when(entry.at)] : null)),
    opens(entry.session, "Open"), forgets(entry));
  const hit = (one, words) => h("div", { class: "hit stack-tight" },
    h("div", { class: "row small muted" }, h("span", { class: "chip" }, one.role || "message"),
      h("span", { class: "grow" }, one.at ? when(one.at) : null), opens(one.session, "Open conversation")),
    h("p", {}, highlight(one.snippet, words)));

  async function show() {
    const words = input.value.trim();
    try {
      if (words === "") {
        const { sessions } = await ask(id, "GET", "/v1/sessions");
        list.replaceChildren(...(sessions.length ? sessions.map(conversation)
          : [h("p", { class: "muted" }, "No conversation yet. Send a message under Work.")]));
      } else {
        const { hits } = await ask(id, "GET", `/v1/history?q=${encodeURIComponent(words)}`);
        list.replaceChildren(...(hits.length ? hits.map((one) => hit(one, words))
          : [h("p", { class: "muted" }, "Nothing found.")]));
      }
    } catch (error) {
      list.replaceChildren(failed(error));
    }
  }
  const form = h("form", { class: "row", role: "search" },
    h("div", { class: "grow" }, input), h("button", { type: "submit", class: "plain" }, "Search"));
  form.addEventListener("submit", (event) => { event.preventDefault(); show(); });
  // The cross of the field empties it.
  input.addEventListener("search", () => { if (input.value === "") show(); });
  show();
  return h("div", { class: "stack" }, form, box, list,
    h("p", { class: "muted small" }, "The history stays in the agent's encrypted database; this search is answered there."));
}

/** Marks the searched words in text, without parsing anything. */
function highlight(text, query) {
  const words = query.toLowerCase().split(/\s+/).filter((word) => word.length > 1);
  if (words.length === 0) return [text];
  const pattern = new RegExp(`(${words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")})`, "gi");
  return text.split(pattern).map((part) => words.includes(part.toLowerCase()) ? h("mark", {}, part) : part);
}
