// An MCP server by the protocol's own SDK, with tools that say what they did.
//
//   node mcp-server.mjs SDK
//
// SDK is the folder of @modelcontextprotocol/sdk.

import { writeFileSync } from "node:fs";
import { join } from "node:path";

const [folder] = process.argv.slice(2);
const { McpServer } = await import(join(folder, "dist/esm/server/mcp.js"));
const { StdioServerTransport } = await import(join(folder, "dist/esm/server/stdio.js"));
const server = new McpServer({ name: "plums", version: "1" });
const text = (text) => ({ content: [{ type: "text", text }] });

server.registerTool("count", { description: "Counts plums." }, () => text("two plums"));
server.registerTool("mark", { description: "Leaves a mark." }, () => {
  writeFileSync("marked", "");
  return text("marked");
});
server.registerTool("token", { description: "Says whether it has its token." }, () => text(`${(process.env.TOKEN ?? "").length} characters`));
server.registerTool("die", { description: "Ends the server." }, () => process.exit(3));
server.registerTool("wait", { description: "Never ends." }, () => {
  writeFileSync("waiting", "");
  return new Promise(() => {});
});
await server.connect(new StdioServerTransport());
