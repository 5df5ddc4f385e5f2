// What happened in the account, as the hash-chained audit log tells it.
import { h, page, when } from "./dom.js";
import { call } from "./api.js";

export async function activityPage() {
  const [{ entries, intact }, { agents }] = await Promise.all([call("GET", "/api/audit"), call("GET", "/api/agents")]);
  const names = new Map(agents.map((agent) => [agent.id, agent.host_name]));
  page("Activity", h("div", { class: "stack" },
    h("div", { class: "row spread" }, h("h1", {}, "Activity"),
      h("span", { class: intact ? "chip good" : "chip bad" }, intact ? "Chain intact" : "Chain broken: entries were changed or removed")),
    entries.length === 0
      ? h("div", { class: "card empty" }, "Nothing yet.")
      : h("ol", { class: "card timeline" }, entries.map((entry) => h("li", {},
        when(entry.at),
        h("span", {}, h("strong", {}, entry.action.replaceAll("_", " ")),
          entry.agent_id ? ` · ${names.get(entry.agent_id) ?? "a removed agent"}` : "",
          entry.detail ? h("span", { class: "muted" }, ` · ${entry.detail}`) : null),
        h("code", { class: "hash", title: entry.hash }, `#${entry.sequence} ${entry.hash.slice(0, 8)}`))))));
}
