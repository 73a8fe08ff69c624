/** The visitor's conversations, beside every page: listed page by page, renamed, deleted. */

import { ApiError, get, getPage, patch, remove } from "./api.js";
import { decide } from "./dialogs.js";
import { element } from "./transcript.js";
import { showTime } from "./times.js";

const PAGE = 12;
const TRY_AGAIN = 5000;
const LOOK_AGAIN = 5000;
const UNTITLED = "Untitled";

const byId = (id) => document.getElementById(id);
const rail = byId("rail");
const sessions = `${rail.dataset.api}/sessions`;
const firstPage = `${sessions}?limit=${PAGE}`;
const sessionUrl = (id) => `${sessions}/${encodeURIComponent(id)}`;

/** The list on a page; `onRenamed` and `onDeleted` hear of the conversation that the page itself shows, `current`. */
export class Rail {
  constructor({ current = null, onRenamed = () => {}, onDeleted = () => {} } = {}) {
    Object.assign(this, { current, onRenamed, onDeleted });
    this.rows = new Map();
    byId("more").addEventListener("click", () => this.more());
    this.load(firstPage);
    setInterval(() => document.hidden || this.refresh(), LOOK_AGAIN);
  }

  /** Says of the page's own conversation that it is at work, or that it no longer is. */
  note(status) {
    tellStatus(this.rows.get(this.current), { status, lastActivity: Date.now() });
  }

  /** Looks whether what was at work still is. */
  async refresh() {
    if (!rail.querySelector(".dot")) return;
    const { items } = await getPage(firstPage).catch(nothingListed);
    for (const session of items) tellStatus(this.rows.get(session.conversationId), session);
  }

  async load(url) {
    try {
      const { items, next } = await getPage(url);
      const found = (await Promise.all(items.map(detailed))).filter(Boolean);
      for (const session of found) this.show(session);
      this.next = next;
      this.say(this.rows.size ? "" : "None yet. What you start will be listed here.");
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.say("Your conversations cannot be listed at the moment. Trying again…");
      setTimeout(() => this.load(url), TRY_AGAIN);
    }
  }

  say(text) {
    byId("listing").textContent = text;
    byId("more").hidden = Boolean(text) || !this.next;
  }

  async more() {
    const known = this.rows.size;
    byId("more").hidden = true;
    await this.load(this.next);
    [...this.rows.values()][known]?.querySelector("a").focus();
  }

  show(session) {
    const page = pageOf(session);
    if (!page || this.rows.has(session.conversationId)) return;
    const row = byId("row").content.cloneNode(true).firstElementChild;
    const link = row.querySelector("a");
    link.href = page;
    if (session.conversationId === this.current) link.setAttribute("aria-current", "page");
    row.querySelector(".rename").addEventListener("click", () => this.rename(session, row));
    row.querySelector(".delete").addEventListener("click", () => this.delete(session, row));
    this.rows.set(session.conversationId, row);
    entitle(row, session.metadata.title);
    tellStatus(row, session);
    byId("conversations").append(row);
  }

  rename(session, row) {
    const field = byId("new-title");
    field.value = row.querySelector(".name").textContent;
    decide(byId("rename"), async (form) => {
      const title = form.get("title").trim() || null;
      const renamed = await patch(sessionUrl(session.id), { metadata: { title } });
      entitle(row, renamed.metadata.title);
      if (session.conversationId === this.current) this.onRenamed(renamed);
    });
    field.select();
  }

  async delete(session, row) {
    byId("delete").querySelector(".subject").textContent = row.querySelector(".name").textContent;
    const done = await decide(byId("delete"), () => remove(sessionUrl(session.id)).catch(forgiveGone));
    if (!done) return;
    const next = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    this.rows.delete(session.conversationId);
    (next?.querySelector("a") ?? byId("listed")).focus();
    if (session.conversationId === this.current) this.onDeleted();
    else if (!this.rows.size && this.next) this.more();
    else this.say(this.rows.size ? "" : "None yet. What you start will be listed here.");
  }
}

/** A listed session with its title; null when it has gone meanwhile. One that cannot be read is listed all the same. */
async function detailed(session) {
  try {
    return await get(sessionUrl(session.id));
  } catch (error) {
    if (error.status === 404) return null;
    if (error.status === 500) return { ...session, metadata: {} };
    throw error;
  }
}

function nothingListed(error) {
  if (!(error instanceof ApiError)) throw error;
  return { items: [] };
}

function forgiveGone(error) {
  if (error.status !== 404) throw error;
}

function entitle(row, title) {
  const name = title || UNTITLED;
  row.querySelector(".name").textContent = name;
  row.querySelector(".rename").setAttribute("aria-label", `Rename “${name}”`);
  row.querySelector(".delete").setAttribute("aria-label", `Delete “${name}”`);
}

function tellStatus(row, { status, lastActivity }) {
  const active = [element("span", "dot"), "at work"];
  const told = status === "active" ? active : [showTime(document.createElement("time"), lastActivity)];
  row?.querySelector(".since").replaceChildren(...told);
}

/** The page that shows a session: its id begins with what kind it is. */
function pageOf({ id, conversationId }) {
  const base = rail.dataset[id.split(":")[0]];
  return base && `${base}${encodeURIComponent(conversationId)}`;
}
