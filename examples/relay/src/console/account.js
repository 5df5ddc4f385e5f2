// Sign up and sign in.
import { attempt, field, h, page, problemBox } from "./dom.js";
import { call } from "./api.js";

/** Shows the form; `then` runs once there is a session. */
export function signIn(then, mode = "in") {
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
      await call("POST", isNew ? "/api/signup" : "/api/login",
        { email: data.get("email"), password: data.get("password") });
      await then();
    });
  });
  page(isNew ? "Create account" : "Sign in",
    h("section", { class: "card center stack" },
      h("div", { class: "stack-tight" },
        h("h1", {}, isNew ? "Create your account" : "Sign in"),
        h("p", { class: "muted small" },
          isNew
            ? "The account lives in this relay's encrypted database. Its password is stored as an Argon2id record."
            : "Your agents wait behind this door.")),
      form,
      h("p", { class: "small" },
        isNew ? "Have an account? " : "New here? ",
        h("a", { href: "#", onclick: (event) => { event.preventDefault(); signIn(then, isNew ? "in" : "up"); } },
          isNew ? "Sign in" : "Create an account"))));
  form.querySelector("input").focus();
}
