// Sign up and sign in: by password, or at a provider.
import { attempt, field, h, page, problemBox } from "./dom.js";
import { ApiError, call } from "./api.js";
import { used, waiting } from "./access.js";

let known;
/** What this relay offers: providers, mail, new accounts. */
export async function options() {
  known ??= await call("GET", "/api/signin");
  return known;
}

/** Leaves for a provider; it sends the browser back to `returnTo`. */
export async function leaveFor(provider, returnTo, link = false) {
  const body = { return_to: returnTo, link };
  const { url } = await call("POST", `/api/signin/${encodeURIComponent(provider.name)}`, body);
  location.assign(url);
}

/** This page, as a path that the relay takes. */
function here() {
  const path = location.pathname + location.search + location.hash;
  return /^\/[!-~]*$/.test(path) ? path : "/";
}

/** Shows the form; `then` runs once there is a session. `note` says why one is here. */
export async function signIn(then, mode = "in", note = undefined) {
  const { providers, mail, sign_up: open } = await options();
  const isNew = mode === "up";
  const box = problemBox();
  const form = h("form", { class: "stack" },
    field("E-mail", { name: "email", type: "email", autocomplete: "username", required: true, maxlength: 254 }),
    field("Password", {
      name: "password", type: "password", required: true, maxlength: 1024,
      minlength: isNew ? 10 : 1,
      autocomplete: isNew ? "new-password" : "current-password",
    }, isNew ? "At least 10 characters; a few words are better than one." : undefined),
    box,
    h("button", { type: "submit" }, isNew ? "Create account" : "Sign in"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const data = new FormData(form);
    attempt(form, box, async () => {
      const body = { email: data.get("email"), password: data.get("password") };
      if (!isNew) {
        await logIn(body, mail);
      } else if (!await call("POST", "/api/signup", body)) {
        await signIn(then, "in", `A mail is on its way to ${body.email}. Open its link, and sign in here.`);
        return;
      }
      await then();
    });
  });
  const ways = h("div", { class: "ways stack-tight", role: "group", "aria-label": "Other ways in" },
    providers.map((provider) => h("button", {
      type: "button", class: "plain",
      onclick: () => attempt(ways, box, () => leaveFor(provider, here())),
    }, `Continue with ${provider.label}`)));
  const go = (text, show) => h("a", { href: "#", onclick: (event) => { event.preventDefault(); show(); } }, text);
  page(isNew ? "Create account" : "Sign in",
    h("section", { class: "card center stack" },
      h("div", { class: "stack-tight" },
        h("h1", {}, isNew ? "Create your account" : "Sign in"),
        h("p", { class: "muted small", role: note ? "status" : undefined },
          note ?? (isNew
            ? "The account lives in this relay's encrypted database. Its password is stored as an Argon2id record."
            : "Your agents wait behind this door."))),
      form,
      providers.length > 0 ? [h("p", { class: "or muted small" }, "or"), ways] : null,
      isNew ? null : h("p", { class: "small" }, mail
        ? go("Forgot your password?", () => forgot(then))
        : h("span", { class: "muted" }, "This relay sends no mail: whoever runs it helps with a forgotten password.")),
      open || isNew ? h("p", { class: "small" },
        isNew ? "Have an account? " : "New here? ",
        go(isNew ? "Sign in" : "Create an account", () => signIn(then, isNew ? "in" : "up"))) : null));
  form.querySelector("input").focus();
}

/** Signs in; a link out of mail that waits confirms the address by that. */
async function logIn(body, mail) {
  const token = waiting("verify");
  try {
    const me = await call("POST", "/api/login", token ? { ...body, token } : body);
    if (token && me.verified) used();
  } catch (error) {
    if (!mail || error.code !== "wrong_credentials") throw error;
    throw new ApiError(error.status, error.code,
      `${error.message}. If the account is new, open the link that was sent to its address first.`);
  }
}

function forgot(then) {
  const box = problemBox();
  const form = h("form", { class: "stack" },
    field("E-mail", { name: "email", type: "email", autocomplete: "username", required: true, maxlength: 254 }),
    box,
    h("div", { class: "row" },
      h("button", { type: "submit" }, "Send a link"),
      h("button", { type: "button", class: "plain", onclick: () => signIn(then) }, "Back")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(form, box, async () => {
      const email = new FormData(form).get("email");
      await call("POST", "/api/password/forgot", { email });
      await signIn(then, "in", `If ${email} has an account here, a link is on its way. It is good for 30 minutes.`);
    });
  });
  page("Forgot password", h("section", { class: "card center stack" },
    h("h1", {}, "Forgot your password?"),
    h("p", { class: "muted small" }, "A link that sets a new one goes to your address."),
    form));
  form.querySelector("input").focus();
}
