// Makes elements without ever parsing HTML: what a machine printed stays text.

/** `h("p", {class: "muted", onclick: f}, "text", child)` */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null));
  return element;
}

/** Shows `children` as the page, named `title`. Whoever stood on what is gone now
 * goes on at the page's beginning. */
export function page(title, ...children) {
  document.title = title ? `${title} · Katachi` : "Katachi";
  const main = document.getElementById("main");
  // A button that was switched off has lost it already.
  const stood = main.hasChildNodes() && (main.contains(document.activeElement) || document.activeElement === document.body);
  main.replaceChildren(...children);
  if (stood) {
    const heading = main.querySelector("h1") ?? main;
    heading.tabIndex = -1;
    heading.focus();
  }
  return main;
}

let toastTimer;
/** Says something that passes, also to screen readers. */
export function say(text) {
  const status = document.getElementById("status");
  status.textContent = text;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { status.textContent = ""; }, 4000);
}

/** A labelled input. */
export function field(label, attributes, hint) {
  const id = `f-${attributes.name}`;
  const hintId = hint ? `${id}-hint` : undefined;
  const input = h("input", { id, "aria-describedby": hintId, ...attributes });
  return h("div", {}, h("label", { for: id }, label), input,
    hint ? h("p", { class: "hint", id: hintId }, hint) : null);
}

/** A place where a form says what is wrong. */
export function problemBox() {
  return h("p", { class: "problem", role: "alert" });
}

/** Runs `work` with the form's buttons off, and shows its failure in `box`. */
export async function attempt(form, box, work) {
  const buttons = [...form.querySelectorAll("button")];
  const stood = document.activeElement;
  box.textContent = "";
  buttons.forEach((button) => { button.disabled = true; });
  try {
    return await work();
  } catch (error) {
    box.textContent = error.message;
    return undefined;
  } finally {
    buttons.forEach((button) => { button.disabled = false; });
    // Who pressed one of them goes on from there.
    if (stood?.isConnected && form.contains(stood)) stood.focus();
  }
}

/** "3 minutes ago" for a time in seconds. */
export function ago(seconds) {
  if (!seconds) return "never";
  const past = Math.max(0, Date.now() / 1000 - seconds);
  return `${duration(past)} ago`;
}

/** "3 minutes" for a number of seconds. */
export function duration(seconds) {
  const units = [["day", 86400], ["hour", 3600], ["minute", 60]];
  for (const [name, size] of units) {
    const count = Math.floor(seconds / size);
    if (count >= 1) return `${count} ${name}${count > 1 ? "s" : ""}`;
  }
  const count = Math.floor(seconds);
  return `${count} second${count === 1 ? "" : "s"}`;
}

/** A `<time>` for a time in seconds. */
export function when(seconds) {
  const date = new Date(seconds * 1000);
  return h("time", { datetime: date.toISOString() },
    date.toLocaleString([], { dateStyle: "medium", timeStyle: "medium" }));
}

/** Copies `text` and says so. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied");
  } catch {
    say("The browser did not let us copy; select the text instead");
  }
}
