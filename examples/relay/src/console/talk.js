// Running commands and sending messages, with the output as it comes.
import { h, say } from "./dom.js";
import { answerApproval, ask, stream } from "./channel.js";
import { denial } from "./agents.js";
import { prose } from "./prose.js";

/** Splits a command line into words. No shell: quotes keep words together, a
 * backslash keeps the next character, and nothing is expanded. */
export function words(line) {
  const found = [];
  let word = "";
  let open = false;
  let quote = null;
  for (let i = 0; i < line.length; i += 1) {
    const c = line[i];
    if (quote) {
      if (c === quote) quote = null;
      else if (c === "\\" && quote === '"' && i + 1 < line.length) word += line[(i += 1)];
      else word += c;
    } else if (c === '"' || c === "'") {
      quote = c;
      open = true;
    } else if (c === "\\" && i + 1 < line.length) {
      word += line[(i += 1)];
      open = true;
    } else if (/\s/.test(c)) {
      if (open) found.push(word);
      word = "";
      open = false;
    } else {
      word += c;
      open = true;
    }
  }
  if (quote) throw new Error(`A quote ${quote} is not closed`);
  if (open) found.push(word);
  return found;
}

/** The panel of one agent, which lives as long as `signal`, and what opens an earlier
 * conversation in it. */
export function talk(agent, signal) {
  let session;
  let running = null;
  const about = h("div", { class: "row spread small", hidden: true });
  const log = h("div", { class: "log", role: "log", "aria-live": "polite", "aria-label": "Output" });
  const input = h("textarea", { rows: 2, "aria-label": "Command or message", spellcheck: "false", class: "mono", enterkeyhint: "send" });
  const send = h("button", { type: "submit" }, "Run");
  const stop = h("button", { type: "button", class: "danger", hidden: true, onclick: () => running?.abort() }, "Stop");
  const hint = h("span", { class: "muted small grow hint-keys" }, "Enter sends, Shift+Enter breaks the line, Esc stops");
  const mode = (value, label, checked) => h("label", {},
    h("input", { type: "radio", name: "mode", value, checked, onchange: adapt }), h("span", {}, label));
  const modes = h("fieldset", { class: "segments", "aria-label": "What to send" },
    mode("run", "Command", true), mode("message", "Message", false));
  const form = h("form", { class: "card composer" }, input,
    h("div", { class: "row" }, modes, hint, stop, send));

  function chosen() { return modes.querySelector("input:checked").value; }
  function adapt() {
    const isRun = chosen() === "run";
    input.classList.toggle("mono", isRun);
    input.placeholder = isRun ? "ls -l" : "Ask the AI on this machine";
    send.textContent = isRun ? "Run" : "Send";
  }
  adapt();

  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
    if (event.key === "Escape") running?.abort();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    start();
  });

  /** The conversation that messages go on with, or none. */
  function goOn(number, title) {
    session = number;
    about.hidden = !number;
    about.replaceChildren(h("span", { class: "muted" }, `Conversation: ${title}`),
      h("button", { type: "button", class: "plain tiny", onclick: () => { log.replaceChildren(); goOn(); input.focus(); } }, "Begin a new one"));
  }

  async function open(number) {
    if (running) throw new Error("Something runs here. Stop it first");
    const { title, messages, more } = await ask(agent.id, "GET", `/v1/sessions/${number}`);
    log.replaceChildren(...(more ? [h("p", { class: "muted small" }, "Earlier messages: ", h("code", {}, `katachi-agent history show ${number}`))] : []),
      ...conversation(agent.id, messages));
    goOn(number, title);
    modes.querySelector("[value=message]").checked = true;
    adapt();
  }

  async function start() {
    if (running || !input.value.trim()) return;
    const isRun = chosen() === "run";
    let body;
    try {
      body = isRun ? { argv: words(input.value) } : { session, text: input.value };
    } catch (error) {
      say(error.message);
      return;
    }
    const card = runCard(agent.id, input.value.trim(), !isRun);
    log.append(card.element);
    scrollTo({ top: document.documentElement.scrollHeight });
    const run = new AbortController();
    running = run;
    send.disabled = true;
    stop.hidden = false;
    input.value = "";
    // The last word ends it: that its stream is closed comes later, when the next may
    // have begun already.
    const over = () => {
      if (running !== run) return;
      const stood = document.activeElement;
      running = null;
      send.disabled = false;
      stop.hidden = true;
      // Who stood on what is gone now, or on an approval, writes the next. Whoever went
      // elsewhere meanwhile stays there.
      const stayed = [document.body, stop, send].includes(stood) || card.element.querySelector("[role=group]:focus-within");
      if (stayed && !signal.aborted) input.focus();
    };
    try {
      await stream(agent.id, isRun ? "/v1/run" : "/v1/message", body, (event) => {
        if (event.event === "started" && event.session && event.session !== session) goOn(event.session, body.text.trim().split("\n")[0].slice(0, 60));
        card.show(event);
        if (card.isDone()) over();
      }, AbortSignal.any([signal, run.signal]));
      card.ended();
    } catch (error) {
      card.broke(error.name === "AbortError" ? "Stopped" : error.message);
    } finally {
      over();
    }
  }

  return { element: h("div", { class: "talk" }, about, log, form), open };
}

/** An earlier conversation: a card for each thing that the person wrote. */
function conversation(agent, messages) {
  const cards = [];
  const begin = (title) => {
    const card = runCard(agent, title, true);
    cards.push(card);
    return card;
  };
  for (const { role, state, text } of messages) {
    const card = role === "user" ? begin(text) : cards.at(-1) ?? begin("…");
    if (role === "user") continue;
    card.show({ event: "output", data: role === "assistant" ? text : `${text}\n` });
    if (state === "complete") card.settled("good", "Answered");
    else card.settled("warn", state === "streaming" ? "Being written" : "Interrupted");
  }
  for (const card of cards) if (!card.isDone()) card.settled("warn", "No answer");
  return cards.map((card) => card.element);
}

/** Starts that were begun on this page: by nonce, what ends the offer. */
export const asked = new Map();

/** A start that waits for this person: exactly what will be signed. Once `withdraw` is
 * called it is not offered any more. */
export function approval(agent, { event: _, ...request }) {
  let waits = true;
  const withdraw = () => {
    if (!waits) return;
    waits = false;
    buttons.replaceChildren(h("span", { class: "chip" }, "No longer asked"));
  };
  const answer = async (decision) => {
    // From now on the agent says what counts.
    waits = false;
    for (const button of buttons.children) button.disabled = true;
    try {
      await answerApproval(agent, request, decision);
      buttons.replaceChildren(h("span", { class: decision === "approve" ? "chip good" : "chip warn" },
        decision === "approve" ? "Approved" : "Denied by you"));
    } catch (error) {
      buttons.replaceChildren(h("p", { class: "problem", role: "alert" }, error.message));
    }
    // Whoever stood on a button that is gone now goes on from here.
    if (document.activeElement === document.body) element.focus();
  };
  const buttons = h("div", { class: "row" },
    h("button", { type: "button", onclick: () => answer("approve") }, "Approve"),
    h("button", { type: "button", class: "danger", onclick: () => answer("deny") }, "Deny"));
  const element = h("div", { class: "denied", role: "group", "aria-label": "Approval", tabindex: "-1" },
    h("p", { class: "what" }, h("strong", {}, "Start this?"), " ",
      request.argv.flatMap((word) => [h("code", {}, word), " "])),
    h("p", { class: "small muted" }, "in ", h("code", {}, request.directory), `, plan ${request.plan_hash.slice(0, 12)}, because of `,
      h("code", {}, request.rule)),
    buttons);
  return { element, withdraw };
}

/** One command or message with everything that came of it. */
export function runCard(agent, title, isAnswer) {
  const chip = h("span", { class: "chip accent busy" }, h("span", { class: "dot" }), "Running");
  const output = isAnswer ? h("div", { class: "output" }) : h("pre", { class: "output", tabindex: "0", "aria-label": "Output" });
  const refusals = h("div");
  const foot = h("p", { class: "run-foot mono", hidden: true });
  const element = h("article", { class: isAnswer ? "card run answer" : "card run", "data-busy": "" },
    h("div", { class: "run-head" }, h(isAnswer ? "p" : "code", { class: "said" }, title), chip), output, refusals, foot);
  let done = false;
  const offers = [];
  const finish = (kind, label) => {
    done = true;
    for (const offer of offers) offer.withdraw();
    chip.className = `chip ${kind}`;
    chip.replaceChildren(label);
    element.removeAttribute("data-busy");
    flush();
    said?.end();
    said = null;
  };
  // Many small pieces come in bursts: they are written once a frame.
  let waiting = [];
  let said = null;
  const flush = () => {
    const root = document.documentElement;
    const atEnd = output.scrollTop + output.clientHeight >= output.scrollHeight - 8;
    const pageAtEnd = root.scrollTop + root.clientHeight >= root.scrollHeight - 48;
    if (isAnswer) waiting.forEach(tell);
    else output.append(...waiting);
    waiting = [];
    if (atEnd) output.scrollTop = output.scrollHeight;
    if (pageAtEnd) root.scrollTop = root.scrollHeight;
  };
  // What an AI says is text with structure, between notes on what it does.
  const tell = (piece) => {
    if (typeof piece === "string") {
      if (!said) output.append((said = prose()).element);
      said.write(piece);
    } else {
      said?.end();
      said = null;
      output.append(piece);
    }
  };
  const write = (piece) => {
    if (waiting.length === 0) requestAnimationFrame(flush);
    if (typeof piece === "string" && typeof waiting.at(-1) === "string") waiting.push(waiting.pop() + piece);
    else waiting.push(piece);
  };
  const show = (event) => {
    switch (event.event) {
      case "approval": {
        const offer = approval(agent, event);
        offers.push(offer);
        asked.set(event.nonce, offer.withdraw);
        refusals.append(offer.element);
        say(`Start ${event.argv.join(" ")}? Approve or deny it`);
        break;
      }
      case "started":
        foot.textContent = `plan ${event.plan_hash.slice(0, 12)}`;
        foot.title = event.plan_hash;
        foot.hidden = !event.plan_hash;
        break;
      case "output":
        write(event.stream === "stderr" ? h("span", { class: "err" }, event.data) : event.data);
        break;
      case "tool":
        write(h("p", { class: "tool" }, h("code", {}, `${event.name} ${event.detail}`)));
        break;
      case "denied":
        refusals.append(denial(event));
        break;
      case "exit": {
        const took = `${event.seconds.toFixed(event.seconds < 10 ? 2 : 0)} s`;
        if (event.signal) finish("bad", `Signal ${event.signal} · ${took}`);
        else if (event.code === 0) finish("good", isAnswer ? `Answered · ${took}` : `Exit 0 · ${took}`);
        else finish("bad", `Exit ${event.code} · ${took}`);
        break;
      }
      case "error":
        write(h("span", { class: "err" }, event.message));
        finish("bad", "Failed");
        break;
    }
  };
  return {
    element,
    show,
    settled: finish,
    isDone: () => done,
    broke: (message) => finish("warn", message),
    ended: () => { if (!done) finish("warn", "Cut off"); },
  };
}
