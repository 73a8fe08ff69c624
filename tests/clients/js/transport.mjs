// transport.mjs <api> <chat>: the parts that the AI SDK's own transport reads of a chat's stream.
import { DefaultChatTransport } from "ai";

const [api, chatId] = process.argv.slice(2);
const tell = (on, value) => console.log(JSON.stringify({ on, ...value }));
const stream = await new DefaultChatTransport({ api }).reconnectToStream({ chatId });
if (stream === null) tell("nothing", {});
else {
  tell("open", {});
  for await (const part of stream) tell("part", { part });
  tell("closed", {});
}
