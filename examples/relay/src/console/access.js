// What opens the account, and links out of mail.
import { ago, attempt, field, h, page, problemBox, say } from "./dom.js";
import { call } from "./api.js";
import { leaveFor, options } from "./account.js";

let mailed = null;

/** Takes the token of a link in mail out of the address, before anything else
 * sees it. */
export function takeMailed() {
  const found = /^#(verify|reset)\/([\w-]{43})$/.exec(location.hash);
  if (!found) return false;
  mailed = { purpose: found[1], token: found[2] };
  history.replaceState(null, "", location.pathname + location.search);
  return true;
}

/** The token of the last link that was for this, not used yet. */
export function waiting(purpose) {
  return mailed?.purpose === purpose ? mailed.token : null;
}

/** It was used. */
export function used() { mailed = null; }

/** Asks for a new password. */
export function resetPage(then) {
  const box = problemBox();
  const form = h("form", { class: "stack" },
    field("New password", {
      name: "password", type: "password", required: true, minlength: 10, maxlength: 1024,
      autocomplete: "new-password",
    }, "At least 10 characters; a few words are better than one."),
    box,
    h("button", { type: "submit" }, "Set the password"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(form, box, async () => {
      await call("POST", "/api/password/reset", { token: waiting("reset"), password: new FormData(form).get("password") });
      mailed = null;
      await then("Your password was changed, and everybody was signed out. Sign in with the new one.");
    });
  });
  page("New password", h("section", { class: "card center stack" },
    h("h1", {}, "Choose a new password"),
    h("p", { class: "muted small" }, "Whoever is signed in to your account is signed out by this."),
    form));
  form.querySelector("input").focus();
}

/** Asks the person to confirm their address: a link alone changes nothing. */
export function verifyPage(me, then) {
  const box = problemBox();
  const form = h("form", { class: "stack" }, box,
    h("div", { class: "row" },
      h("button", { type: "submit" }, "Confirm"),
      h("button", { type: "button", class: "plain", onclick: () => { mailed = null; then(); } }, "Not now")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(form, box, async () => {
      await call("POST", "/api/verify", { token: waiting("verify") });
      mailed = null;
      say("Your address is confirmed");
      await then();
    });
  });
  page("Confirm your address", h("section", { class: "card center stack" },
    h("h1", {}, "Is this your address?"),
    h("p", {}, `You are signed in to the account of ${me.email}. Confirm if you opened it.`), form));
  form.querySelector("button").focus();
}

async function send(button, path, body) {
  button.disabled = true;
  try {
    await call("POST", path, body);
    say("A link is on its way");
  } catch (error) {
    say(error.message);
  } finally {
    button.disabled = false;
  }
}

const sender = (text, path, body) => h("button", {
  type: "button", class: "plain tiny", onclick: (event) => send(event.currentTarget, path, body),
}, text);

const again = () => sender("Send the link again", "/api/verify/send");

/** Says above every page that the address is not confirmed yet. */
export async function showNotice(me) {
  const place = document.getElementById("notice");
  const wanted = me && !me.verified && (await options()).mail;
  place.hidden = !wanted;
  place.replaceChildren(...wanted ? [
    h("p", {}, `Confirm your address: open the link that was sent to ${me.email}. Until then you cannot connect a device.`),
    again()] : []);
}

/** The account: its address, and every way in. */
export async function accountPage(me) {
  const [{ password, identities }, { providers, mail }] =
    await Promise.all([call("GET", "/api/identities"), options()]);
  const box = problemBox();
  const unlink = (identity) => () => attempt(section, box, async () => {
    await call("DELETE", `/api/identities/${encodeURIComponent(identity.id)}`);
    say(`${identity.provider} is unlinked`);
    await accountPage(me);
    document.getElementById("main").focus();
  });
  const address = me.verified
    ? h("span", { class: "chip good" }, "Confirmed")
    : h("span", { class: "chip warn" }, "Not confirmed");
  const ways = identities.map((identity) => h("li", { class: "row spread" },
    h("div", { class: "grow" },
      h("strong", {}, identity.provider), ` as ${identity.label}`,
      h("p", { class: "muted small" }, `linked ${ago(identity.linked_at)}`)),
    h("button", { type: "button", class: "danger tiny", "aria-label": `Unlink ${identity.provider}, ${identity.label}`, onclick: unlink(identity) }, "Unlink")));
  const section = h("div", { class: "stack" },
    h("h1", {}, "Account"),
    h("section", { class: "card stack-tight", "aria-labelledby": "h-address" },
      h("h2", { id: "h-address" }, "Address"),
      h("p", { class: "row" }, h("span", { class: "mono" }, me.email), address),
      mail ? null : h("p", { class: "muted small" }, "This relay sends no mail: addresses cannot be confirmed here, and a forgotten password cannot be reset."),
      mail && !me.verified ? h("div", {}, again()) : null),
    h("section", { class: "card stack", "aria-labelledby": "h-ways" },
      h("h2", { id: "h-ways" }, "Ways in"),
      h("ul", { class: "links stack-tight" },
        h("li", { class: "row spread" },
          h("span", {}, h("strong", {}, "Password"), password ? " is set" : " is not set"),
          mail && !password ? sender("Send a link that sets one", "/api/password/forgot", { email: me.email }) : null),
        ways),
      box,
      providers.length > 0 ? h("div", { class: "row", role: "group", "aria-label": "Link another way in" },
        providers.map((provider) => h("button", {
          type: "button", class: "plain",
          onclick: () => attempt(section, box, () => leaveFor(provider, "/#account", true)),
        }, `Link ${provider.label}`))) : null));
  page("Account", section);
}

