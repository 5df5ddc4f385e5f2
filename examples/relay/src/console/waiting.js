// Starts that wait for a person and were not begun on this page: in another
// window, by another device, or before this page was loaded.
import { h } from "./dom.js";
import { ask, isPaired } from "./channel.js";
import { approval, asked } from "./talk.js";

/** The list, and what looks for new ones and for those that nobody waits for any more. */
export function waiting(agent) {
  const element = h("div", { class: "stack", role: "region", "aria-label": "Waiting for you", "aria-live": "polite" });
  const shown = new Map();
  const keep = (open) => {
    for (const [nonce, card] of shown) {
      if (open.has(nonce)) continue;
      card.remove();
      shown.delete(nonce);
    }
  };
  const refresh = async () => {
    if (!await isPaired(agent)) return;
    // Only those that the answer can already know of.
    const here = [...asked];
    const { approvals } = await ask(agent, "GET", "/v1/approvals");
    const open = new Set(approvals.map(({ nonce }) => nonce));
    for (const [nonce, withdraw] of here) {
      if (open.has(nonce)) continue;
      withdraw();
      asked.delete(nonce);
    }
    keep(open);
    for (const request of approvals) {
      if (asked.has(request.nonce) || shown.has(request.nonce)) continue;
      const card = h("article", { class: "card run" }, approval(agent, request).element);
      shown.set(request.nonce, card);
      element.append(card);
    }
  };
  return {
    element,
    refresh,
    /** Whether some are shown. */
    any: () => shown.size > 0,
    /** The agent is gone, and its questions with it. */
    clear: () => keep(new Set()),
  };
}
