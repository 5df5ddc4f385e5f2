// Starts that wait for a person and were not begun on this page: in another
// window, by another device, or before this page was loaded.
import { h } from "./dom.js";
import { ask, isPaired } from "./channel.js";
import { approval, asked } from "./talk.js";

/** The list, and what looks for new ones. */
export function waiting(agent) {
  const element = h("div", { class: "stack", role: "region", "aria-label": "Waiting for you", "aria-live": "polite" });
  const shown = new Map();
  const refresh = async () => {
    if (!await isPaired(agent)) return;
    const { approvals } = await ask(agent, "GET", "/v1/approvals");
    const open = new Set(approvals.map(({ nonce }) => nonce));
    for (const [nonce, card] of shown) {
      if (open.has(nonce)) continue;
      card.remove();
      shown.delete(nonce);
    }
    for (const request of approvals.filter(({ nonce }) => !asked.has(nonce))) {
      const card = h("article", { class: "card run" }, approval(agent, request));
      shown.set(request.nonce, card);
      element.append(card);
    }
  };
  return { element, refresh };
}
