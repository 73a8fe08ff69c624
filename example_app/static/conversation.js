/** A conversation on its page: finds what is running, shows everything so far, and goes on. */

import { ApiError, get, post, serverNow } from "./api.js";
import { keepingPlace, pinToEnd } from "./place.js";
import { askWith } from "./question.js";
import { Rail } from "./rail.js";
import { replayed } from "./replay.js";
import { Strip } from "./strip.js";
import { Exchange } from "./transcript.js";

const LOOK_EVERY = 3000;
const LOOK_WHILE_FOLLOWING = 15000;
const LIVE = ["pending", "running"];

const byId = (id) => document.getElementById(id);
const main = byId("main");
const api = byId("rail").dataset.api;
const conversation = `${api}/conversations/${main.dataset.conversation}`;
const home = document.querySelector(".back").href;
const { follow } = await import(`${api}/client.js`);

const exchanges = new Map();
const strip = new Strip(stop);
const rail = new Rail({ current: main.dataset.conversation, onRenamed: entitle, onDeleted: () => location.assign(home) });
let page = null;
let session = null;
let seen = null;
let following = null;
let looking = null;
let lookedAt = 0;
let replays = Promise.resolve();

/** Shows the conversation. `show` is given its session each time that is read; `again` begins a summary once more. */
export function openConversation({ show: showSession, again = null }) {
  page = { show: showSession, again };
  history.scrollRestoration = "manual";
  askWith(byId("ask"), (form) => {
    pinToEnd();
    return start(byId("ask").action, form);
  });
  look();
  setInterval(() => document.hidden || lookWhenDue(), 1000);
  document.addEventListener("visibilitychange", () => document.hidden || look());
}

function lookWhenDue() {
  const every = following?.connected ? LOOK_WHILE_FOLLOWING : LOOK_EVERY;
  if (Date.now() - lookedAt >= every) look();
}

/** Asks what the conversation's latest session is doing, and shows what is new. One look at a time. */
function look() {
  looking ??= lookNow().finally(() => (looking = null));
  return looking;
}

async function lookNow() {
  lookedAt = Date.now();
  try {
    const active = await get(`${conversation}/active-session`);
    const fresh = JSON.stringify(active) !== seen;
    if (fresh && !(following && active.status === "active")) {
      await show(active.sessionId);
      seen = following ? null : JSON.stringify(active);
    }
    banner("");
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 404) nothingHere();
    banner(trouble(error));
  }
}

function trouble(error) {
  if (error.status === 404) return "";
  if (error.status === 503) return "The server cannot reach its store at the moment. Trying again…";
  return error.status === 0 ? "The server cannot be reached. Trying again…" : error.message;
}

async function show(sessionId) {
  const url = `${api}/sessions/${encodeURIComponent(sessionId)}`;
  const [found, turns, tasks] = await Promise.all([get(url), get(`${url}/messages?limit=200`), get(`${url}/tasks?limit=200`)]);
  session = found;
  byId("empty").hidden = byId("over").hidden = true;
  byId("dock").hidden = false;
  entitle(session);
  page.show(session);
  const ordered = tasks.slice().sort((one, other) => one.createdAt - other.createdAt);
  for (const entry of entries(turns, ordered)) place(entry, url);
  if (!following && ordered.length) settle(ordered.at(-1));
}

/** There is no such conversation, or there is none any more. */
function nothingHere() {
  unfollow();
  byId(session ? "over" : "empty").hidden = false;
  byId("dock").hidden = true;
}

function entitle({ metadata }) {
  byId("title").textContent = metadata.title ?? "Conversation";
  document.title = `${metadata.title ?? "Conversation"} – Reading along`;
}

/** The tasks with their turns, and the turns of no task, in the order in which they began. */
function entries(turns, tasks) {
  const byKey = new Map(tasks.map((task) => [task.id, { key: task.id, at: task.createdAt, task, turns: [] }]));
  for (const turn of turns) {
    const key = turn.results?.taskId ?? `turn ${turn.position}`;
    if (!byKey.has(key)) byKey.set(key, { key, at: turn.timestamp, task: null, turns: [] });
    byKey.get(key).turns.push(turn);
  }
  return [...byKey.values()].sort((one, other) => one.at - other.at);
}

function place({ key, task, turns }, sessionUrl) {
  const exchange = exchanges.get(key) ?? begin(key);
  const asked = turns.find((turn) => turn.role === "user");
  const told = turns.find((turn) => turn.role === "assistant");
  const url = task && `${sessionUrl}/tasks/${task.id}/events`;
  if (asked) keepingPlace(() => exchange.question({ text: asked.content }));
  if (asked?.resolvedQuestion) keepingPlace(() => exchange.understood({ text: asked.resolvedQuestion }));
  if (task && LIVE.includes(task.state)) {
    if (following?.task.id !== task.id) followLive(task, exchange);
    return;
  }
  if (task && following?.task.id === task.id) unfollow();
  const state = task?.state ?? "completed";
  if (exchange.state === state) return;
  exchange.state = state;
  if (told) {
    keepingPlace(() => exchange.turn(told));
    finish(task, exchange, state);
  } else if (task) {
    replays = replays.then(() => replay(task, exchange, url));
  }
}

function begin(key) {
  const exchange = new Exchange();
  exchanges.set(key, exchange);
  keepingPlace(() => byId("transcript").append(exchange.node));
  return exchange;
}

/** Follows what is running now. */
function followLive(task, exchange) {
  unfollow();
  exchange.state = null;
  exchange.clear();
  exchange.live = true;
  strip.begin(task);
  rail.note("active");
  const own = { task, connected: false };
  own.stream = follow(main.dataset.conversation, {
    ...telling(exchange),
    sessionId: session.id,
    onEvent({ type, data }) {
      if (type === "sentence") announce(exchange.lastSentence);
      tell(exchange, type, data);
    },
    onStatus: (data) => strip.update(data),
    onConnection(state, detail) {
      own.connected = state === "open";
      if (following !== own) return;
      if (state === "closed") unfollow();
      else if (state !== "connecting") strip.connection(state, detail?.retryIn);
    },
    onEnd({ state }) {
      unfollow();
      exchange.state = state;
      finish(task, exchange, state);
      strip.end(state, (serverNow() - began(task)) / 1000);
      announce(`${exchange.lastSentence} ${byId("doing").textContent}`);
      look();
    },
  });
  following = own;
}

/** Stops following; the next look finds out how things stand. */
function unfollow() {
  if (following) rail.note("idle");
  following?.stream.close();
  following = null;
  seen = null;
}

/** Shows once more what an ended task has told, where no turn was stored. */
async function replay(task, exchange, url) {
  exchange.clear();
  finish(task, exchange, task.state);
  const { onEvent, onAttempt, onGap } = telling(exchange);
  try {
    for await (const { type, data } of replayed(url)) {
      if (type === "gap") onGap(data);
      else if (type === "attempt") onAttempt();
      else if (type !== "end") onEvent({ type, data });
    }
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 404) return finish(task, exchange, "gone");
    exchange.state = seen = null;
  }
}

const telling = (exchange) => ({
  onEvent: ({ type, data }) => tell(exchange, type, data),
  onAttempt: () => exchange.clear(),
  onGap({ startsOver }) {
    if (startsOver) exchange.clear();
    keepingPlace(() => exchange.gap());
  },
});

function tell(exchange, type, data) {
  keepingPlace(() => exchange[type](data));
}

function finish(task, exchange, state) {
  keepingPlace(() => exchange.end(state, task?.type === "summary" ? page.again : null));
}

const began = (task) => task.startedAt ?? task.createdAt;

/** Says how the latest task ended. */
function settle(task) {
  strip.end(task.state, task.finishedAt && (task.finishedAt - began(task)) / 1000);
}

async function stop() {
  try {
    await post(`${conversation}/stop?session_id=${encodeURIComponent(session.id)}`);
  } catch (error) {
    hint(error.status === 404 ? "There is nothing left to stop." : error.message, true);
    unfollow();
    look();
  }
}

/** Starts background work with a form; answers whether it was accepted. */
export const start = (url, form) => change(() => post(url, form));

/** Does what changes the session, and shows what came of it; answers whether it could be done, and says why not. */
export async function change(action) {
  try {
    await action(`${api}/sessions/${encodeURIComponent(session?.id)}`);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    hint(error.status === 409 ? "Something is still running here. Let it finish, or stop it first." : error.message, true);
    return false;
  }
  hint("");
  await looking;
  await look();
  return true;
}

function hint(text, problem = false) {
  const node = byId("hint");
  node.textContent = text || node.dataset.hint;
  node.classList.toggle("problem", problem);
}

function banner(text) {
  const node = byId("banner");
  if (node.textContent !== text) node.textContent = text;
  node.classList.toggle("shown", Boolean(text));
}

function announce(text) {
  byId("announce").textContent = text.trim();
}
