// A coding agent without a model: it speaks the Agent Client Protocol by the
// protocol's own SDK, and each message to it is a list of things to do, as JSON.
//
//   node acp-agent.mjs SDK [no-load] [version]
//
// SDK is the folder of @agentclientprotocol/sdk.

import { readFileSync, writeFileSync, existsSync } from "node:fs";
import { Readable, Writable } from "node:stream";
import { join } from "node:path";

const [sdk, ...traits] = process.argv.slice(2);
const acp = await import(join(sdk, "dist/v1/stable/acp.js"));
const store = "acp-sessions.json";
const sessions = existsSync(store) ? JSON.parse(readFileSync(store, "utf8")) : {};
const keep = () => writeFileSync(store, JSON.stringify(sessions));
let cancelled = () => {};

async function perform(step, sessionId, client) {
  const update = (update) => client.notify(acp.methods.client.session.update, { sessionId, update });
  const say = (text) => update({ sessionUpdate: "agent_message_chunk", content: { type: "text", text } });
  const attempt = async (what) => {
    try {
      return await what();
    } catch (error) {
      return `refused: ${error.message}`;
    }
  };
  switch (step.do) {
    case "say":
      return say(step.text);
    case "think":
      return update({ sessionUpdate: "agent_thought_chunk", content: { type: "text", text: step.text } });
    case "plan":
      return update({ sessionUpdate: "plan", entries: [{ content: "count", priority: "high", status: "completed" }, { content: "tell", priority: "low", status: "pending" }] });
    case "tool":
      return update({ sessionUpdate: "tool_call", toolCallId: "1", title: step.title, kind: "search", rawInput: { words: "plum" } });
    case "recall":
      return say(sessions[sessionId].join("|"));
    case "read":
      return say(await attempt(async () => (await client.request(acp.methods.client.fs.readTextFile, { sessionId, path: step.path })).content));
    case "own":
      return say(await attempt(() => readFileSync(step.path, "utf8")));
    case "write":
      return say(await attempt(async () => {
        await client.request(acp.methods.client.fs.writeTextFile, { sessionId, path: step.path, content: step.content });
        return "written";
      }));
    case "ask": {
      const options = [
        { optionId: "always", name: "Always", kind: "allow_always" },
        { optionId: "once", name: "Once", kind: "allow_once" },
        { optionId: "no", name: "No", kind: "reject_once" },
      ].filter((option) => !step.only || option.optionId === step.only);
      const toolCall = { toolCallId: "2", title: step.title, kind: "execute", rawInput: step.input };
      const answer = await client.request(acp.methods.client.session.requestPermission, { sessionId, toolCall, options });
      return say(answer.outcome.outcome === "selected" ? answer.outcome.optionId : answer.outcome.outcome);
    }
    case "terminal": {
      const said = await attempt(async () => {
        const terminal = await client.createTerminal({ sessionId, command: step.argv[0], args: step.argv.slice(1), env: step.env ?? [] });
        if (step.kill) {
          await terminal.kill();
        }
        const ended = await terminal.waitForExit();
        const { output } = await terminal.currentOutput();
        await terminal.release();
        const how = ended.exitStatus ?? ended;
        return `${how.exitCode ?? "signal " + how.signal}: ${output}`;
      });
      return say(said);
    }
    case "env":
      return say(JSON.stringify(process.env));
    case "wait":
      await say("waiting");
      return new Promise((resolve) => {
        cancelled = () => {
          writeFileSync("cancelled", "");
          resolve("cancelled");
        };
      });
    case "flood":
      for (;;) {
        process.stdout.write(`${JSON.stringify({ jsonrpc: "2.0", method: "_flood", params: { x: "x".repeat(64 * 1024) } })}\n`);
        await new Promise((resolve) => setImmediate(resolve));
      }
    case "raw":
      process.stdout.write(step.line.repeat(step.times ?? 1) + "\n");
      return new Promise(() => {});
    case "exit":
      process.exit(step.code);
  }
}

acp
  .agent({ name: "test-agent" })
  .onRequest(acp.methods.agent.initialize, () => ({
    protocolVersion: traits.includes("version") ? 99 : acp.PROTOCOL_VERSION,
    agentCapabilities: { loadSession: !traits.includes("no-load") },
  }))
  .onRequest(acp.methods.agent.session.new, () => {
    const sessionId = `s${Object.keys(sessions).length + 1}`;
    sessions[sessionId] = [];
    keep();
    return { sessionId };
  })
  .onRequest(acp.methods.agent.session.load, async ({ params, client }) => {
    if (!sessions[params.sessionId]) {
      throw new acp.RequestError(-32002, "no such session");
    }
    for (const text of sessions[params.sessionId]) {
      const update = { sessionUpdate: "agent_message_chunk", content: { type: "text", text: `again: ${text}` } };
      await client.notify(acp.methods.client.session.update, { sessionId: params.sessionId, update });
    }
    return {};
  })
  .onRequest(acp.methods.agent.session.prompt, async ({ params, client }) => {
    const steps = JSON.parse(params.prompt[0].text);
    sessions[params.sessionId].push(steps.map((step) => step.do).join(","));
    keep();
    for (const step of steps) {
      if ((await perform(step, params.sessionId, client)) === "cancelled") {
        return { stopReason: "cancelled" };
      }
    }
    return { stopReason: steps.at(-1)?.stop ?? "end_turn" };
  })
  .onNotification(acp.methods.agent.session.cancel, () => cancelled())
  .connect(acp.ndJsonStream(Writable.toWeb(process.stdout), Readable.toWeb(process.stdin)));
