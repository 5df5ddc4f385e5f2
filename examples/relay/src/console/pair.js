// The card that an agent shows to a browser it does not know.
import { attempt, h, problemBox } from "./dom.js";
import { pairByCode } from "./channel.js";

/** `done` runs once this browser is paired. */
export function pairCard(agent, signal, done) {
  const box = problemBox();
  const numbers = h("div", { role: "status" });
  const compare = h("button", { type: "submit" }, "Compare numbers");
  const form = h("form", { class: "card stack", "aria-label": "Pair this browser" },
    h("h2", {}, "Pair this browser"),
    h("p", {}, "The agent does nothing for a browser it does not know. On its machine, run ",
      h("code", {}, "katachi-agent device pair"), " and open the link here."),
    h("p", { class: "muted" }, "If the link cannot be carried to this browser, run ",
      h("code", {}, "katachi-agent device pair --code"), " there, and then"),
    numbers, box, h("div", {}, compare));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(form, box, async () => {
      try {
        await pairByCode(agent, (code) => shown(numbers, code, signal), signal);
        await done();
      } finally {
        numbers.replaceChildren();
        compare.hidden = false;
      }
    });
    compare.hidden = true;
  });
  return form;
}

/** Shows the numbers until the person has decided. */
function shown(place, code, signal) {
  return new Promise((resolve) => {
    const answer = (label, kind, same) => h("button", { type: "button", class: kind, onclick: () => resolve(same) }, label);
    place.replaceChildren(h("div", { class: "stack" },
      h("p", {}, "Type these at the machine:"),
      h("p", { class: "numbers" }, code.join(" ")),
      h("p", {}, "Press the first button only if the machine says that they are the same. If it says anything else, somebody may sit in between."),
      h("div", { class: "row" },
        answer("The machine accepted them", undefined, true),
        answer("Stop", "plain", false))));
    signal.addEventListener("abort", () => resolve(false), { once: true });
  });
}
