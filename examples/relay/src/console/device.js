// Approving a device: compare first, then decide. A link with the code in it
// never approves anything by itself.
import { attempt, duration, field, h, page, problemBox } from "./dom.js";
import { call } from "./api.js";

export async function devicePage() {
  const given = new URLSearchParams(location.search).get("user_code");
  if (given) await compare(given);
  else ask();
}

function ask(problem = "") {
  const box = problemBox();
  box.textContent = problem;
  const form = h("form", { class: "stack" },
    field("Code from the terminal", {
      name: "user_code", required: true, maxlength: 16, autocomplete: "off",
      autocapitalize: "characters", spellcheck: "false", placeholder: "XXXX-XXXX", class: "mono",
    }),
    box,
    h("button", { type: "submit" }, "Continue"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    compare(new FormData(form).get("user_code"));
  });
  page("Connect a device", h("section", { class: "card center stack" },
    h("h1", {}, "Connect a device"), form));
  form.querySelector("input").focus();
}

async function compare(code) {
  let info;
  try {
    info = await call("GET", `/api/device?user_code=${encodeURIComponent(code)}`);
  } catch (error) {
    if (error.status !== 401) ask(error.message);
    return;
  }
  const box = problemBox();
  const decide = (path, done) => (event) => {
    event.preventDefault();
    attempt(section, box, async () => {
      await call("POST", path, { user_code: info.user_code });
      done();
    });
  };
  const fact = (name, value) => [h("dt", {}, name), h("dd", {}, value || "not told")];
  const section = h("section", { class: "card center wide stack" },
    h("div", { class: "stack-tight" },
      h("h1", {}, "Is this your device?"),
      h("p", { class: "muted" }, "Approve only if your own terminal shows this code right now. Whoever holds the device will act for your account.")),
    h("p", { class: "code", "aria-label": `Code ${[...info.user_code].join(" ")}` }, info.user_code),
    h("dl", { class: "facts" },
      fact("Calls itself", info.host_name),
      fact("System", info.os),
      fact("Agent", info.version),
      fact("Asked from", info.address),
      fact("Asked", `${duration(info.age_seconds)} ago`),
      fact("Expires in", duration(info.expires_in))),
    box,
    h("div", { class: "row" },
      h("button", { type: "button", onclick: decide("/api/device/approve", approved) }, "The codes match, approve"),
      h("button", { type: "button", class: "danger", onclick: decide("/api/device/deny", denied) }, "Deny")));
  page("Connect a device", section);
}

function approved() {
  history.replaceState(null, "", "/device");
  page("Approved", h("section", { class: "card center stack" },
    h("h1", {}, "Approved"),
    h("p", {}, "The terminal now shows your account and asks for a last yes."),
    h("a", { class: "button", href: "/#agents" }, "See your agents")));
}

function denied() {
  history.replaceState(null, "", "/device");
  page("Denied", h("section", { class: "card center stack" },
    h("h1", {}, "Denied"),
    h("p", {}, "The device learned that you said no. Nothing was connected."),
    h("a", { class: "button", href: "/#agents" }, "Back to your agents")));
}
