// MCP configurations: tool servers, their settings and their secrets. A secret
// goes in and is never shown again; what the database holds can be looked at.
import { attempt, field, h, page, problemBox, say, when } from "./dom.js";
import { call, mcpPath } from "./api.js";
import { signMcp } from "./channel.js";
import { words } from "./talk.js";

export async function mcpPage() {
  const [{ configs }, { agents }] = await Promise.all([call("GET", "/api/mcp"), call("GET", "/api/agents")]);
  const names = new Map(agents.map((agent) => [agent.id, agent.host_name || agent.id]));
  page("MCP", h("div", { class: "stack" },
    h("div", { class: "row spread" }, h("h1", {}, "MCP configurations"),
      h("button", { type: "button", onclick: () => edit(null, agents) }, "Add")),
    h("p", { class: "muted" }, "Tool servers for your AI processes. Each secret is sealed for this account, this configuration and this version; an agent receives it only if you release it to that agent, and starts a server only as a browser that is paired with it signed it."),
    configs.length === 0
      ? h("div", { class: "card empty" }, "None yet.")
      : configs.map((config) => card(config, agents, names))));
}

function card(config, agents, names) {
  const sealed = h("div");
  const show = async () => {
    const { cells } = await call("GET", mcpPath(config.name, "/sealed"));
    sealed.replaceChildren(...cells.map((cell) => h("div", { class: "sealed stack-tight" },
      h("p", { class: "small" }, h("strong", {}, cell.name), ` is bound to account ${cell.context.tenant.slice(0, 8)}…, ${cell.context.table}.${cell.context.column}, row ${cell.context.row}, version ${cell.context.version}`),
      h("code", {}, cell.sealed))));
    if (cells.length === 0) sealed.replaceChildren(h("p", { class: "muted small" }, "It has no secrets."));
  };
  const guarded = (work) => () => work().catch((error) => say(error.message));
  return h("article", { class: "card stack-tight" },
    h("div", { class: "row spread" }, h("h2", {}, config.name), h("span", { class: "muted small" }, `version ${config.version}, `, when(config.updated_at))),
    h("p", {}, h("code", {}, config.command.join(" "))),
    h("div", { class: "row" },
      Object.entries(config.env).map(([name, value]) => h("span", { class: "chip mono" }, `${name}=${value}`)),
      config.secret_names.map((name) => h("span", { class: "chip accent mono" }, `${name} •••••`))),
    h("p", { class: "small muted" }, config.released_to.length
      ? `Released to ${config.released_to.map((id) => names.get(id) ?? "a removed agent").join(", ")}`
      : "Released to no agent"),
    config.released_to.filter((id) => !config.signed_for.includes(id)).map((id) => h("p", { class: "small problem" },
      `${names.get(id) ?? "A removed agent"} does not start it: no browser that is paired with it signed this. Save it again in one that is.`)),
    h("div", { class: "row" },
      h("button", { type: "button", class: "plain tiny", onclick: () => edit(config, agents) }, "Change"),
      h("button", { type: "button", class: "plain tiny", onclick: guarded(show) }, "What the database holds"),
      h("button", {
        type: "button", class: "danger tiny",
        onclick: guarded(async () => {
          if (!confirm(`Delete ${config.name} and its secrets?`)) return;
          await call("DELETE", mcpPath(config.name));
          await mcpPage();
        }),
      }, "Delete")),
    sealed);
}

function edit(config, agents) {
  const box = problemBox();
  const env = pairs("env", "Settings", "text", Object.entries(config?.env ?? {}));
  const secrets = pairs("secret", "Secrets", "password", (config?.secret_names ?? []).map((name) => [name, ""]));
  const quote = (word) => /[\s"'\\]/.test(word) || word === "" ? `"${word.replace(/["\\]/g, "\\$&")}"` : word;
  const form = h("form", { class: "card stack" },
    field("Name", { name: "name", required: true, maxlength: 64, pattern: "[a-z0-9][a-z0-9\\-]*", value: config?.name ?? "", readonly: !!config, autocomplete: "off" }, "Small letters, digits and hyphens."),
    field("Command", { name: "command", required: true, value: (config?.command ?? []).map(quote).join(" "), class: "mono", autocomplete: "off", placeholder: "npx -y @modelcontextprotocol/server-github" }, "Program and arguments; no shell."),
    env.element, secrets.element,
    config?.secret_names.length ? h("p", { class: "hint" }, "Stored secrets cannot be read back: enter each again, or remove its row.") : null,
    agents.length ? h("fieldset", { class: "stack-tight" }, h("legend", { class: "label" }, "Release to"),
      agents.map((agent) => h("label", { class: "check" },
        h("input", { type: "checkbox", name: "agent", value: agent.id, checked: config?.released_to.includes(agent.id) }), agent.host_name || agent.id))) : null,
    box,
    h("div", { class: "row" }, h("button", { type: "submit" }, "Save"),
      h("button", { type: "button", class: "plain", onclick: () => mcpPage() }, "Cancel")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const data = new FormData(form);
    attempt(form, box, async () => {
      const wanted = { command: words(data.get("command")), env: env.read(), secrets: secrets.read(), released_to: data.getAll("agent"), signatures: {} };
      for (const agent of wanted.released_to) {
        const signature = await signMcp(agent, data.get("name"), wanted);
        if (signature) wanted.signatures[agent] = signature;
      }
      await call("PUT", mcpPath(data.get("name")), wanted);
      say("Saved");
      await mcpPage();
    });
  });
  page("MCP", h("div", { class: "stack" }, h("h1", {}, config ? `Change ${config.name}` : "Add a configuration"), form));
  form.querySelector("input:not([readonly])").focus();
}

/** Rows of name and value. */
function pairs(kind, title, type, initial) {
  const rows = h("div");
  const add = (name = "", value = "") => rows.append(h("div", { class: "pair" },
    h("input", { "aria-label": `${title}: name`, placeholder: "NAME", value: name, class: "mono", "data-part": "name", pattern: "[A-Za-z_][A-Za-z0-9_]*", maxlength: 64, autocomplete: "off" }),
    h("input", { "aria-label": `${title}: value`, placeholder: "value", value, type, class: "mono", "data-part": "value", maxlength: 8192, autocomplete: "off" }),
    h("button", { type: "button", class: "quiet", "aria-label": "Remove this row", onclick: (event) => event.currentTarget.parentElement.remove() }, "✕")));
  initial.forEach(([name, value]) => add(name, value));
  const element = h("fieldset", { class: "stack-tight" }, h("legend", { class: "label" }, title), rows,
    h("button", { type: "button", class: "plain tiny", onclick: () => add() }, `Add ${kind === "env" ? "a setting" : "a secret"}`));
  const read = () => {
    const found = {};
    for (const row of rows.children) {
      const [name, value] = [...row.querySelectorAll("input")].map((input) => input.value);
      if (name) found[name] = value;
    }
    return found;
  };
  return { element, read };
}
