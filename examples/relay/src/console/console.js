// Starts the console: who is here, and which page they asked for.
import { h, page, say } from "./dom.js";
import { call, setOnSignedOut } from "./api.js";
import { signIn } from "./account.js";
import { accountPage, resetPage, showNotice, takeMailed, verifyPage, waiting } from "./access.js";
import { devicePage } from "./device.js";
import { agentPage, agentsPage, failed } from "./agents.js";
import { mcpPage } from "./mcp.js";
import { activityPage } from "./activity.js";
import { setAccount } from "./channel.js";
import { takeFragment } from "./pairing.js";

takeFragment();
takeMailed();

let current = new AbortController();
let signedIn = false;
let account = null;

function frame(me) {
  signedIn = !!me;
  account = me;
  showNotice(me).catch((error) => say(error.message));
  setAccount(me?.email ?? "");
  document.getElementById("nav").hidden = !me;
  document.getElementById("logout").hidden = !me;
  document.getElementById("who").textContent = me?.email ?? "";
}

async function route() {
  current.abort();
  current = new AbortController();
  const { signal } = current;
  const [view = "agents", id] = location.hash.slice(1).split("/");
  const isDevice = location.pathname === "/device";
  for (const link of document.querySelectorAll("#nav a")) {
    if (!isDevice && link.dataset.view === (view || "agents")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  try {
    if (waiting("verify")) verifyPage(account, enter);
    else if (isDevice) await devicePage();
    else if (view === "account") await accountPage(account);
    else if (view === "mcp") await mcpPage();
    else if (view === "activity") await activityPage();
    else if (id) await agentPage(decodeURIComponent(id), signal);
    else await agentsPage(signal);
  } catch (error) {
    if (error.status !== 401) page("", h("div", { class: "card" }, failed(error)));
  }
}

async function enter() {
  const { me } = await call("GET", "/api/session");
  frame(me);
  if (waiting("reset")) resetPage(afterReset);
  else if (me) await route();
  else await signIn(enter, "in", waiting("verify") ? "Sign in with the password that you chose, and your address is confirmed." : undefined);
}

async function afterReset(note) {
  frame(null);
  await signIn(enter, "in", note);
}

setOnSignedOut(() => {
  if (signedIn) say("Your session ended");
  current.abort();
  frame(null);
  signIn(enter).catch((error) => say(error.message));
});

document.getElementById("logout").addEventListener("click", async () => {
  await call("POST", "/api/logout").catch(() => {});
  current.abort();
  frame(null);
  history.replaceState(null, "", "/");
  await signIn(enter);
});

// Follows the system until the button was used.
const theme = document.getElementById("theme");
const stored = localStorage.getItem("theme");
if (stored) document.documentElement.dataset.theme = stored;
theme.addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
  say(dark ? "Light colours" : "Dark colours");
});

addEventListener("hashchange", () => {
  takeFragment();
  if (takeMailed()) begin();
  else if (signedIn) route();
});

function begin() {
  enter().catch((error) => {
    if (error.status !== 401) page("", h("div", { class: "card" }, failed(error)));
  });
}
begin();
