// A coding agent without a model that uses the MCP servers it is told of: each
// message to it is a list of things to do, as JSON, and each thing says what came
// of it, as one line of JSON.
//
//   node acp-mcp.mjs ACP MCP
//
// ACP is the folder of @agentclientprotocol/sdk, MCP that of @modelcontextprotocol/sdk.

import { spawn } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { Readable, Writable } from "node:stream";

const [acpFolder, mcpFolder] = process.argv.slice(2);
const acp = await import(join(acpFolder, "dist/v1/stable/acp.js"));
const { Client } = await import(join(mcpFolder, "dist/esm/client/index.js"));
const { StdioClientTransport } = await import(join(mcpFolder, "dist/esm/client/stdio.js"));
let servers = [];

const entry = (name) => servers.find((server) => server.name === name);

/// The SDK's own client, connected to a server.
async function client(name) {
  const { command, args } = entry(name);
  const client = new Client({ name: "test", version: "1" });
  await client.connect(new StdioClientTransport({ command, args }));
  return client;
}

// Longest wait for something that has to come; what comes too late has not come.
const patience = 60000;

/// A bridge that is told `lines` as they are; ends with `count` answers, or with it.
function raw(name, lines, count) {
  const { command, args } = entry(name);
  return new Promise((resolve) => {
    const child = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] });
    let text = "";
    const answers = () => text.split("\n").filter((line) => line !== "");
    const done = (ended) => (clearTimeout(late), resolve({ answers: answers(), ended, child }));
    const late = setTimeout(() => done("nothing came"), patience);
    child.stdin.on("error", () => {});
    child.stdout.on("data", (chunk) => {
      text += chunk;
      if (answers().length >= count) done(false);
    });
    child.on("error", (error) => done(String(error)));
    child.on("close", () => done(true));
    for (const line of lines) child.stdin.write(line);
  });
}

const settle = (promise) => promise.catch((error) => ({ error: error.message }));

async function perform(step) {
  switch (step.do) {
    case "entries":
      return servers;
    case "list": {
      const talk = await client(step.server);
      const { tools } = await talk.listTools();
      await talk.close();
      return tools.map((tool) => tool.name);
    }
    case "call": {
      const talk = await client(step.server);
      const { tool: name, arguments: input } = step;
      const attempt = () => settle(talk.callTool({ name, arguments: input ?? {} }, undefined, { timeout: 200000 }));
      let said = await attempt();
      for (let left = step.retries ?? 0; said.error && left > 0; left--) {
        await new Promise((resolve) => setTimeout(resolve, 50));
        said = await attempt();
      }
      await settle(talk.close());
      return said;
    }
    case "raw": {
      const { answers, ended, child } = await raw(step.server, step.lines.map((line) => line + " ".repeat(step.pad ?? 0) + "\n"), step.count);
      child.kill();
      return { answers: answers.map((line) => JSON.parse(line)), ended };
    }
    case "crowd": {
      // None ends before the last has begun.
      const ping = '{"jsonrpc":"2.0","id":1,"method":"ping"}\n';
      const all = [];
      for (let number = 0; number < step.size; number++) all.push(await raw(step.server, [ping], 1));
      all.forEach(({ child }) => child.kill());
      return all.filter(({ answers }) => answers.length === 1).length;
    }
    case "flights": {
      const call = (id) => `{"jsonrpc":"2.0","id":${id},"method":"tools/call","params":{"name":"wait"}}\n`;
      const lines = Array.from({ length: step.size }, (_, id) => call(id));
      let { answers, ended, child } = await raw(step.server, lines, 1);
      // Connections that ended just before may still be counted: then this one was
      // closed, and is tried again.
      for (let left = 400; ended && answers.length === 0 && left > 0; left--) {
        await new Promise((resolve) => setTimeout(resolve, 50));
        ({ answers, ended, child } = await raw(step.server, lines, 1));
      }
      // One that is given up makes room for another.
      child.kill();
      return answers.map((line) => JSON.parse(line));
    }
    case "look": {
      const seen = { self: JSON.stringify(process.env), proc: [] };
      for (const name of readdirSync("/proc").filter((name) => /^[0-9]+$/.test(name))) {
        for (const file of ["environ", "cmdline"]) {
          try {
            seen.proc.push(readFileSync(`/proc/${name}/${file}`, "latin1"));
          } catch {}
        }
      }
      return seen;
    }
    case "connect":
      return new Promise((resolve) => {
        const socket = connect(step.path === "lent" ? entry(step.server).args[1] : step.path);
        socket.on("connect", () => (socket.destroy(), resolve("connected")));
        socket.on("error", (error) => resolve(error.code));
      });
    case "exec":
      return new Promise((resolve) => {
        const child = spawn(entry(step.server).command, step.words, { stdio: "ignore" });
        child.on("error", (error) => resolve(error.code));
        child.on("close", (code, signal) => resolve(code ?? signal));
      });
  }
}

acp
  .agent({ name: "test-agent" })
  .onRequest(acp.methods.agent.initialize, () => ({ protocolVersion: acp.PROTOCOL_VERSION, agentCapabilities: { loadSession: true } }))
  .onRequest(acp.methods.agent.session.new, ({ params }) => {
    servers = params.mcpServers;
    return { sessionId: "one" };
  })
  .onRequest(acp.methods.agent.session.load, ({ params }) => {
    servers = params.mcpServers;
    return {};
  })
  .onRequest(acp.methods.agent.session.prompt, async ({ params, client }) => {
    for (const step of JSON.parse(params.prompt[0].text)) {
      const said = JSON.stringify(await settle(perform(step)));
      const content = { type: "text", text: `${said}\n` };
      await client.notify(acp.methods.client.session.update, { sessionId: params.sessionId, update: { sessionUpdate: "agent_message_chunk", content } });
    }
    return { stopReason: "end_turn" };
  })
  .onNotification(acp.methods.agent.session.cancel, () => {})
  .connect(acp.ndJsonStream(Writable.toWeb(process.stdout), Readable.toWeb(process.stdin)));
