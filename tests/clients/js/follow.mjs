// follow.mjs <client.js> <conversation> <options>: tells every callback; commands: stop, close, abort, online, offline.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [module, conversation, given] = process.argv.slice(2);
const tell = (on, value = {}) => console.log(JSON.stringify({ on, ...value }));
const page = new EventTarget();
globalThis.addEventListener = page.addEventListener.bind(page);
globalThis.removeEventListener = page.removeEventListener.bind(page);

const { follow } = await import(pathToFileURL(module));
const { throwing, aborted, attempts, ...options } = JSON.parse(given);
const controller = new AbortController();
if (aborted) controller.abort();
if (throwing) process.on("uncaughtException", (error) => tell("uncaught", { message: error.message }));
const callbacks = {
  onEvent(event) {
    tell("event", event);
    if (throwing) throw new Error("The page's own mistake.");
  },
  onStatus: (status) => tell("status", { status }),
  onGap: (gap) => tell("gap", gap),
  onEnd: (end) => tell("end", end),
  onSession: (session) => tell("session", { session }),
  onIdle: () => tell("idle"),
  onError: (error) => tell("error", { name: error.name, status: error.status, message: error.message }),
  onConnection: (state, detail) => tell("connection", { state, ...detail }),
};
if (attempts) callbacks.onAttempt = (attempt) => tell("attempt", attempt);
const following = follow(conversation, { ...callbacks, ...options, signal: controller.signal });
following.done.then(
  (end) => tell("done", { state: end?.state ?? null, cursor: following.cursor, session: following.sessionId }),
  (error) => tell("rejected", { status: error.status }),
);

const commands = {
  stop: () => following.stop().then((stopped) => tell("stopped", { stopped }), (error) => tell("stop failed", { status: error.status })),
  close: () => following.close(),
  abort: () => controller.abort(),
  online: () => page.dispatchEvent(new Event("online")),
};
createInterface({ input: process.stdin }).on("line", (command) => commands[command]());
process.stdin.unref();
