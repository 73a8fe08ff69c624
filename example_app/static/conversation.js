/** The page of one conversation: finds what is running, shows everything so far, and goes on. */

import { ApiError, get, post, serverNow } from "./api.js";
import { replayed } from "./replay.js";
import { Strip } from "./strip.js";
import { Exchange, element } from "./transcript.js";
import { showTimes } from "./times.js";

const LOOK_EVERY = 3000;
const LOOK_WHILE_FOLLOWING = 15000;
const LIVE = ["pending", "running"];

const byId = (id) => document.getElementById(id);
const main = byId("main");
const api = main.dataset.api;
const conversation = `${api}/conversations/${main.dataset.conversation}`;
const { follow } = await import(`${api}/client.js`);

const exchanges = new Map();
const strip = new Strip(stop);
let session = null;
let seen = null;
let following = null;
let looking = null;
let lookedAt = 0;
let replays = Promise.resolve();

history.scrollRestoration = "manual";
showTimes();
listen();
look();
setInterval(() => document.hidden || lookWhenDue(), 1000);
document.addEventListener("visibilitychange", () => document.hidden || look());

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
    if (error.status === 404 && !session) nothingHere(true);
    banner(trouble(error));
  }
}

function trouble(error) {
  if (error.status === 404) return session ? "This conversation is over: it was deleted, or kept no longer." : "";
  if (error.status === 503) return "The server cannot reach its store at the moment. Trying again…";
  return error.status === 0 ? "The server cannot be reached. Trying again…" : error.message;
}

async function show(sessionId) {
  const url = `${api}/sessions/${encodeURIComponent(sessionId)}`;
  const [found, turns, tasks] = await Promise.all([get(url), get(`${url}/messages?limit=200`), get(`${url}/tasks?limit=200`)]);
  session = found;
  nothingHere(false);
  showText(session.metadata);
  const ordered = tasks.slice().sort((one, other) => one.createdAt - other.createdAt);
  for (const entry of entries(turns, ordered)) place(entry, url);
  if (!following && ordered.length) settle(ordered.at(-1));
}

function nothingHere(nothing) {
  byId("empty").hidden = !nothing;
  byId("dock").hidden = nothing;
}

function showText({ title, author, words }) {
  const facts = [author, words && `${words.toLocaleString("en")} words`].filter(Boolean);
  byId("title").textContent = title ?? "Conversation";
  byId("about").textContent = facts.join(" · ");
  document.title = `${title ?? "Conversation"} – Reading along`;
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
  if (asked) exchange.ask(asked.content);
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
  noteInList("reading now", "dot");
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
  if (following) noteInList("just now");
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
  keepingPlace(() => (type === "question" ? exchange.ask(data.text) : exchange[type](data)));
}

function finish(task, exchange, state) {
  keepingPlace(() => exchange.end(state, task?.type === "summary" ? readAgain : null));
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

async function readAgain() {
  await start(main.dataset.again, new FormData());
}

/** Starts background work; answers whether it was accepted. */
async function start(url, form) {
  try {
    await post(url, form);
  } catch (error) {
    hint(error.status === 409 ? "Something is still running here. Let it finish, or stop it first." : error.message, true);
    return false;
  }
  hint("");
  await looking;
  await look();
  return true;
}

function listen() {
  const form = byId("ask");
  const question = byId("question");
  const grow = () => {
    question.rows = Math.min(6, Math.max(1, question.value.split("\n").length));
  };
  question.addEventListener("input", grow);
  question.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!question.value.trim() || form.dataset.sending) return;
    form.dataset.sending = "yes";
    pinned = true;
    if (await start(form.action, new FormData(form))) {
      question.value = "";
      grow();
    }
    delete form.dataset.sending;
  });
}

function hint(text, problem = false) {
  const node = byId("hint");
  node.textContent = text || node.dataset.hint;
  node.classList.toggle("problem", problem);
}

/** Says in the list of conversations what this one is doing. */
function noteInList(text, mark = null) {
  const since = document.querySelector(".conversations [aria-current] .since");
  since?.replaceChildren(...(mark ? [element("span", mark)] : []), text);
}

function banner(text) {
  const node = byId("banner");
  if (node.textContent !== text) node.textContent = text;
  node.classList.toggle("shown", Boolean(text));
}

function announce(text) {
  byId("announce").textContent = text.trim();
}

let pinned = true;
let scrolling = 0;
addEventListener("scroll", () => {
  pinned = document.documentElement.scrollHeight - innerHeight - scrollY < 80;
}, { passive: true });

/** Changes the transcript; who is reading at its end stays at its end, everybody else stays where they are. */
function keepingPlace(change) {
  change();
  if (!pinned || scrolling) return;
  scrolling = requestAnimationFrame(() => {
    scrolling = 0;
    scrollTo(0, document.documentElement.scrollHeight);
  });
}
