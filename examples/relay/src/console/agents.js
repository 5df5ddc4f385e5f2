// The list of agents, and one agent with what can be done there.
import { ago, copy, h, page, problemBox, say, when } from "./dom.js";
import { agentPath, call } from "./api.js";
import { ask, isPaired, ownId, pairIfAsked, stream, unpair } from "./channel.js";
import { pairCard } from "./pair.js";
import { history } from "./history.js";
import { runCard, talk } from "./talk.js";
import { waiting } from "./waiting.js";

function stateChip(agent) {
  if (agent.quarantined_at) return h("span", { class: "chip warn" }, h("span", { class: "dot" }), "Kept out");
  if (!agent.online) return h("span", { class: "chip" }, h("span", { class: "dot" }), "Offline");
  const busy = agent.state === "busy";
  return h("span", { class: busy ? "chip accent busy" : "chip good" }, h("span", { class: "dot" }),
    busy ? "Busy" : agent.state === "draining" ? "Stopping" : "Online");
}

/** The list; asks again every few seconds while it is shown. */
export async function agentsPage(signal) {
  const grid = h("div", { class: "agents" });
  let shown = "";
  const refresh = async () => {
    const { agents } = await call("GET", "/api/agents");
    const now = JSON.stringify(agents.map(({ last_seen, ...rest }) => rest));
    if (signal.aborted || now === shown) return;
    shown = now;
    grid.replaceChildren(...agents.map((agent) =>
      h("a", { class: "card agent-card stack-tight", href: `/#agents/${agent.id}` },
        h("div", { class: "row spread" }, h("span", { class: "name" }, agent.host_name || "Unnamed"), stateChip(agent)),
        h("p", { class: "muted small" }, [agent.os, agent.version].filter(Boolean).join(" · ")),
        h("p", { class: "muted small" }, agent.online ? "Connected" : `Last seen ${ago(agent.last_seen)}`))));
    if (agents.length === 0) {
      grid.replaceChildren(h("div", { class: "card empty stack-tight" },
        h("p", {}, "No agent yet. On the machine that should work for you:"),
        h("p", {}, h("code", {}, `katachi-agent login --relay ${location.origin}`)),
        h("p", {}, "then ", h("a", { href: "/device" }, "enter the code it shows"), ".")));
    }
  };
  page("Agents", h("div", { class: "stack" },
    h("div", { class: "row spread" }, h("h1", {}, "Agents"),
      h("a", { href: "/device" }, "Connect a device")), grid));
  await refresh();
  const timer = setInterval(() => refresh().catch(() => {}), 4000);
  signal.addEventListener("abort", () => clearInterval(timer));
}

/** One agent. */
export async function agentPage(id, signal) {
  const { agents } = await call("GET", "/api/agents");
  const agent = agents.find((one) => one.id === id);
  if (!agent) {
    page("Not found", h("div", { class: "card empty" }, "There is no such agent in this account. ",
      h("a", { href: "/#agents" }, "All agents")));
    return;
  }
  const chip = h("span", {}, stateChip(agent));
  const pairing = h("div", {});
  const kept = h("div", {}, keptOut(agent));
  const waits = waiting(id);
  const facts = h("p", { class: "muted small" }, [agent.os, agent.version].filter(Boolean).join(" · "));
  const panel = h("div", { role: "tabpanel", id: "panel", "aria-labelledby": "tab-talk" });
  const work = talk(agent, signal);
  const tabs = [
    ["talk", "Work", () => work.element],
    ["denied", "Denied", () => denials(id)],
    ["history", "History", () => history(id, async (session) => {
      await work.open(session);
      await select("talk", true);
      scrollTo({ top: document.documentElement.scrollHeight });
    })],
    ["tools", "Tools", () => tools(id)],
    ["settings", "Settings", () => settings(agent, () => showLock())],
  ];
  let selected;
  const select = async (key, focus) => {
    selected = key;
    for (const button of bar.children) {
      const on = button.id === `tab-${key}`;
      button.setAttribute("aria-selected", on);
      button.tabIndex = on ? 0 : -1;
      if (on && focus) button.focus();
    }
    panel.setAttribute("aria-labelledby", `tab-${key}`);
    const content = await tabs.find(([name]) => name === key)[2]();
    // Another tab may have been chosen while this one was asked for.
    if (selected === key) panel.replaceChildren(content);
  };
  const bar = h("div", { class: "tabs", role: "tablist", "aria-label": "Agent" },
    tabs.map(([key, label]) => h("button", {
      type: "button", role: "tab", id: `tab-${key}`, "aria-controls": "panel",
      onclick: () => select(key), onkeydown: (event) => arrow(event, key),
    }, label)));
  const arrow = (event, key) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const index = tabs.findIndex(([name]) => name === key);
    select(tabs[(index + step + tabs.length) % tabs.length][0], true);
  };
  page(agent.host_name || "Agent", h("div", { class: "stack" },
    h("div", { class: "stack-tight" },
      h("div", { class: "row" }, h("h1", {}, agent.host_name || "Unnamed"), chip),
      facts),
    kept, pairing, waits.element, bar, panel));
  await select("talk");
  const lock = h("span", {});
  chip.after(lock);
  const showLock = async () => {
    const sealed = await isPaired(id);
    lock.className = sealed ? "chip good" : "chip warn";
    lock.textContent = sealed ? "End to end" : "Not paired";
    lock.title = sealed ? "Only this browser and the agent can read what you do here"
      : "The agent does nothing for this browser before it is paired";
    pairing.replaceChildren(...(sealed ? [] : [pairCard(id, signal, showLock)]));
  };
  await pairIfAsked(id).catch((error) => say(error.message));
  await showLock();
  const update = async () => {
    const fresh = (await call("GET", "/api/agents")).agents.find((one) => one.id === id);
    if (fresh) chip.replaceChildren(stateChip(fresh));
    // Said when it becomes so, and not again every few seconds.
    if (fresh && Boolean(fresh.quarantined_at) !== kept.hasChildNodes()) {
      kept.replaceChildren(...[keptOut(fresh)].filter(Boolean));
    }
    // An agent that has nothing to do waits for nobody, and its last questions go.
    if (fresh && !fresh.online) waits.clear();
    else if (fresh?.state === "busy" || waits.any()) await waits.refresh();
  };
  const timer = setInterval(() => update().catch(() => {}), 4000);
  signal.addEventListener("abort", () => clearInterval(timer));
  if (agent.online) {
    ask(id, "GET", "/v1/status").then((status) => {
      const parts = [agent.os, `agent ${status.version}`, status.workspace && `workspace ${status.workspace}`,
        status.sandbox && `sandbox ${status.sandbox}`, status.cloudflared && carrier(status.cloudflared)];
      facts.textContent = parts.filter(Boolean).join(" · ");
    }).catch(() => {});
  }
}

/** How the program is that carries the tunnel. */
function carrier({ ready, counts }) {
  if (!ready) return "cloudflared without a connection to Cloudflare";
  return counts ? `cloudflared with ${counts.connections} connections, ${counts.errors} errors` : "cloudflared connected";
}

/** What is to be decided about an agent whose key two places used. */
function keptOut(agent) {
  if (!agent.quarantined_at) return null;
  const box = problemBox();
  return h("div", { class: "card stack-tight", role: "alert" },
    h("p", {}, h("strong", {}, "Kept out"), " since ", when(agent.quarantined_at),
      ": two places used this agent's key in turn. If you did not run it twice yourself, somebody has a copy: remove the agent in its settings and log in again on the machine."),
    box,
    h("div", {}, h("button", {
      type: "button", class: "plain",
      onclick: async () => {
        try {
          await call("POST", `${agentPath(agent.id)}/release`);
          say("Let in again");
          dispatchEvent(new HashChangeEvent("hashchange"));
        } catch (error) {
          box.textContent = error.message;
        }
      },
    }, "Let it in again")));
}

/** One refused action, with the line of the policy that would allow it. */
export function denial(event) {
  return h("div", { class: "denied" },
    h("p", { class: "what" }, h("strong", {}, "Denied"), ` ${event.operation} `, h("code", {}, event.target)),
    h("p", { class: "small muted" }, event.reason),
    event.allow_with
      ? h("div", { class: "allow" },
        h("code", { "aria-label": "Policy line that would allow it" }, event.allow_with),
        h("button", { type: "button", class: "plain tiny", onclick: () => copy(event.allow_with) }, "Copy"))
      : null);
}

async function denials(id) {
  try {
    const { denials: list } = await ask(id, "GET", "/v1/denials");
    if (list.length === 0) return h("div", { class: "card empty" }, "Nothing was refused.");
    return h("div", { class: "stack" },
      h("p", { class: "muted small" }, "To allow one of these, add its line to the policy file on the machine. It is never changed from here."),
      list.map((one) => h("article", { class: "card run" },
        h("div", { class: "run-head" }, h("code", {}, (one.argv ?? []).join(" ")), when(one.at)),
        denial(one))));
  } catch (error) {
    return failed(error);
  }
}

/** The account's MCP servers as this agent judges them, and what each can do. */
async function tools(id) {
  try {
    const { servers } = await ask(id, "GET", "/v1/mcp");
    if (servers.length === 0) return h("div", { class: "card empty" }, "The account has no ", h("a", { href: "/#mcp" }, "MCP configurations"), ".");
    return h("div", { class: "stack" }, servers.map((server) => {
      const runs = h("div");
      const list = h("button", {
        type: "button", class: "plain tiny",
        onclick: async () => {
          const card = runCard(id, server.command.join(" "), true);
          runs.replaceChildren(card.element);
          await stream(id, "/v1/mcp", { server: server.name }, card.show).catch((error) => card.broke(error.message));
          card.ended();
        },
      }, "Start and list its tools");
      return h("article", { class: "card stack-tight" },
        h("h2", {}, server.name),
        h("p", {}, h("code", {}, server.command.join(" "))),
        server.refused ? h("p", { class: "problem" }, `Not started: ${server.refused}`) : list, runs);
    }));
  } catch (error) {
    return failed(error);
  }
}

async function settings(agent, paired) {
  const box = problemBox();
  const devices = h("ul", { class: "stack-tight", tabindex: "-1", "aria-label": "Paired browsers" });
  const listed = await isPaired(agent.id) ? await ask(agent.id, "GET", "/v1/devices").catch(() => null) : null;
  const own = listed ? await ownId(agent.id) : null;
  devices.append(...(listed?.devices ?? []).map((device) => h("li", { class: "row spread" },
    h("span", {}, `${device.name}${device.id === own ? " (this browser)" : ""}, `, when(device.paired_at)),
    h("button", {
      type: "button", class: "danger tiny",
      onclick: async (event) => {
        const entry = event.target.closest("li");
        try {
          // Whom the agent removes it cuts off, also while it says so.
          await ask(agent.id, "DELETE", `/v1/devices/${device.id}`).catch((error) => {
            if (device.id !== own || !["cut", "not_paired"].includes(error.code)) throw error;
          });
          if (device.id === own) {
            await unpair(agent.id);
            await paired();
          }
          entry.remove();
          devices.focus();
          say("Removed");
        } catch (error) {
          box.textContent = error.message;
        }
      },
    }, "Remove"))));
  return h("div", { class: "card stack" },
    h("dl", { class: "facts" },
      h("dt", {}, "Identifier"), h("dd", { class: "mono" }, agent.id),
      h("dt", {}, "Approved"), h("dd", {}, when(agent.approved_at)),
      h("dt", {}, "Last seen"), h("dd", {}, ago(agent.last_seen))),
    h("h2", {}, "Paired browsers"),
    listed ? devices : h("p", { class: "muted" }, "This browser is not paired. Run ", h("code", {}, "katachi-agent device pair"), " on the machine and open its link here."),
    box,
    h("div", {}, h("button", {
      type: "button", class: "danger",
      onclick: async () => {
        if (!confirm(`Remove ${agent.host_name || "this agent"}? Its key stops working at once.`)) return;
        try {
          await call("DELETE", agentPath(agent.id));
          say("Removed");
          location.hash = "agents";
        } catch (error) {
          box.textContent = error.message;
        }
      },
    }, "Remove this agent")));
}

export function failed(error) {
  return h("p", { class: "problem", role: "alert" }, error.message);
}
