/**
 * Follows what is running for a conversation: finds its session, shows everything so far, goes on, and comes back after
 * every break. No event is shown twice, and nothing is missing without a word. Types: client.d.ts beside this file.
 *
 *   import { follow } from "/api/v1/client.js";
 *   const following = follow(conversationId, { onEvent: ({ type, data }) => …, onEnd: ({ state }) => … });
 *   following.stop();   // asks the work to stop;  following.close();   // only ends the following
 */

const FIRST_BACKOFF = 1000;
const MAX_BACKOFF = 15_000;
const MAX_ASKED = 3_600_000;
const MAX_DOUBLINGS = 10;
const SILENCE = 45_000;
const PATIENCE = 15_000;
const PASSING = new Set([408, 425, 429]);

/** Follow the most recent task of a conversation. */
export function follow(conversationId, options = {}) {
  return new Following(conversationId, options);
}

/** The server's answer is final: asking again would not help. */
export class FollowError extends Error {
  constructor(status, body) {
    super(body?.error ?? `The server answered ${status}.`);
    this.name = "FollowError";
    this.status = status;
  }
}

/** Whether cursor `a` comes after cursor `b`: by epoch, then by number. */
export function isAfter(a, b) {
  const [epoch, number] = parts(a);
  const [otherEpoch, otherNumber] = parts(b);
  return epoch > otherEpoch || (epoch === otherEpoch && number > otherNumber);
}

class Following {
  #options;
  #conversation;
  #sessionId;
  #cursor;
  #state;
  #shown = new Map();
  #gap = null;
  #retry = FIRST_BACKOFF;
  #failures = 0;
  #closed = new AbortController();
  #connection = null;
  #hurried = false;
  #pauses = new Set();

  constructor(conversationId, options) {
    this.#options = options;
    const base = String(options.baseUrl ?? new URL(".", import.meta.url)).replace(/\/+$/, "");
    this.#conversation = `${base}/conversations/${encodeURIComponent(conversationId)}`;
    this.#sessionId = options.sessionId ?? null;
    this.#cursor = options.cursor ?? null;
    /** Resolves with the end, or with null when there is nothing (more) to follow or close() was called. */
    this.done = this.#run();
    this.done.catch(() => {});
  }

  get sessionId() {
    return this.#sessionId;
  }

  /** The cursor of the last event that was shown. */
  get cursor() {
    return this.#cursor;
  }

  /** End the following; the work goes on. */
  close() {
    this.#closed.abort();
    this.#wake();
  }

  /** Ask the work to stop; the end comes through onEnd. False when nothing is running, or nobody could be asked. */
  async stop() {
    const query = this.#sessionId === null ? "" : `?session_id=${encodeURIComponent(this.#sessionId)}`;
    for (let failures = 0; ; failures++) {
      const response = await this.#ask(`${this.#conversation}/stop${query}`, { method: "POST" });
      if (response?.ok) return true;
      if (response?.status === 404 || response?.status === 409) return false;
      if (isFinal(response)) throw await failure(response);
      if (this.#closed.signal.aborted) return false;
      await this.#sleep(this.#delay(response, failures));
    }
  }

  async #run() {
    // The caller gets the following before its first callback.
    await null;
    const { signal } = this.#options;
    const abort = () => this.close();
    const online = () => this.#online();
    if (signal?.aborted) abort();
    signal?.addEventListener("abort", abort);
    globalThis.addEventListener?.("online", online);
    try {
      if (this.#sessionId === null && !(await this.#find())) return null;
      let end;
      while (end === undefined && !this.#closed.signal.aborted) end = await this.#stream(this.#cursor);
      return end ?? null;
    } catch (error) {
      if (this.#closed.signal.aborted) return null;
      this.#call("onError", error);
      throw error;
    } finally {
      signal?.removeEventListener("abort", abort);
      globalThis.removeEventListener?.("online", online);
      this.close();
      this.#tell("closed");
    }
  }

  /** The network is back: what was open before it went is dead, whether that shows already or not. */
  #online() {
    this.#failures = 0;
    this.#hurried = this.#connection !== null;
    this.#connection?.abort();
    this.#wake();
  }

  /** Learn the session; false when the conversation has none. */
  async #find() {
    while (!this.#closed.signal.aborted) {
      this.#tell("connecting");
      const response = await this.#ask(`${this.#conversation}/active-session`, { signal: this.#closed.signal });
      const found = response?.ok ? await response.json().catch(() => null) : null;
      if (typeof found?.sessionId === "string") {
        this.#sessionId = found.sessionId;
        this.#failures = 0;
        this.#call("onSession", found);
        return true;
      }
      if (response?.status === 404) {
        this.#call("onIdle");
        return false;
      }
      if (isFinal(response)) throw await failure(response);
      await this.#pause(response);
    }
    return false;
  }

  /** One connection: the end (null when there is nothing more), or undefined when it broke off. */
  async #stream(cursor) {
    this.#tell("connecting");
    const connection = new AbortController();
    const abort = () => connection.abort();
    this.#closed.signal.addEventListener("abort", abort);
    this.#connection = connection;
    let silence;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(abort, this.#options.silence ?? SILENCE);
    };
    let response = null;
    try {
      heard();
      const query = cursor === null ? "" : `?cursor=${encodeURIComponent(cursor)}`;
      const url = `${this.#conversation}/resume/${encodeURIComponent(this.#sessionId)}${query}`;
      response = await this.#fetch(url, { headers: { Accept: "text/event-stream" }, signal: connection.signal });
      if (response.status === 204) return await this.#nothingMore(cursor);
      if (isFinal(response)) throw await failure(response);
      if (response.ok) {
        for await (const frame of frames(response.body, heard)) {
          if (connection.signal.aborted) break;
          const end = this.#take(frame);
          if (end !== undefined) return end;
        }
      }
    } catch (error) {
      if (error instanceof FollowError) throw error;
    } finally {
      clearTimeout(silence);
      this.#closed.signal.removeEventListener("abort", abort);
      connection.abort();
      this.#connection = null;
    }
    await this.#pause(response);
    return undefined;
  }

  /**
   * 204 at the very begin: nothing was started in the session. After events, but before an end was shown: the worker was
   * lost during a break. The last event once more, and its end comes.
   */
  #nothingMore(cursor) {
    if (cursor === null) {
      this.#call("onIdle");
      return null;
    }
    const [epoch, number] = parts(cursor);
    return this.#shown.get(epoch) === number ? this.#stream(`${epoch}-${number - 1}`) : null;
  }

  /** Show a frame once; returns the end's data with the last. */
  #take({ id, type = "message", data, retry }) {
    if (retry !== undefined) this.#retry = Math.max(1, retry);
    if (data === undefined) return undefined;
    this.#failures = 0;
    this.#tell("open");
    if (type === "message" && data === "[DONE]") return null;
    const value = JSON.parse(data);
    if (type === "end") {
      this.#cursor = id ?? this.#cursor;
      this.#call("onEnd", value);
      return value;
    }
    if (type === "gap") this.#skip(value);
    else if (type === "status") this.#call("onStatus", value);
    else if (id !== undefined && this.#isNew(id)) {
      if (type === "attempt" && this.#options.onAttempt) this.#call("onAttempt", value);
      else this.#call("onEvent", { type, data: value, cursor: id });
    }
    return undefined;
  }

  /** Note an event as shown; false when it was before, or lies before where the caller wanted to begin. */
  #isNew(id) {
    const [epoch, number] = parts(id);
    const before = this.#cursor !== null && !isAfter(id, this.#cursor);
    if (!before) this.#cursor = id;
    if (before || number <= (this.#shown.get(epoch) ?? 0)) return false;
    this.#shown.set(epoch, number);
    return true;
  }

  /** A gap is told once, however often the connection breaks behind it. */
  #skip({ requested, firstAvailable }) {
    const elsewhere = requested !== "0-0" && parts(requested)[0] !== parts(firstAvailable)[0];
    const startsOver = elsewhere || firstAvailable === "0-0" || !isAfter(firstAvailable, requested);
    if (startsOver) this.#cursor = null;
    if (requested !== this.#gap) this.#call("onGap", { requested, firstAvailable, startsOver });
    this.#gap = requested;
  }

  #tell(state, detail) {
    if (state === this.#state && detail === undefined) return;
    this.#state = state;
    this.#call("onConnection", state, detail);
  }

  /** A callback's own error is its page's affair, as with event listeners: the following goes on. */
  #call(name, ...values) {
    try {
      this.#options[name]?.(...values);
    } catch (error) {
      if (typeof reportError === "function") reportError(error);
      else setTimeout(() => { throw error; });
    }
  }

  async #fetch(url, init) {
    const given = this.#options.headers;
    const headers = { ...(typeof given === "function" ? await given() : given), ...init.headers };
    const credentials = this.#options.credentials ?? "same-origin";
    return (this.#options.fetch ?? fetch)(url, { cache: "no-store", credentials, ...init, headers });
  }

  /** A request whose answer is short; null when none came in time. */
  async #ask(url, init) {
    const late = new AbortController();
    const abort = () => late.abort();
    const timer = setTimeout(abort, PATIENCE);
    init.signal?.addEventListener("abort", abort);
    try {
      const response = await this.#fetch(url, { ...init, signal: late.signal });
      const body = await response.text();
      return new Response(body || null, { status: response.status, headers: response.headers });
    } catch {
      return null;
    } finally {
      clearTimeout(timer);
      init.signal?.removeEventListener("abort", abort);
    }
  }

  async #pause(response) {
    const hurried = this.#hurried;
    this.#hurried = false;
    if (hurried || this.#closed.signal.aborted) return;
    const retryIn = this.#delay(response, this.#failures);
    this.#failures += 1;
    this.#tell("waiting", { retryIn });
    await this.#sleep(retryIn);
  }

  /** How long to wait (ms): never less than the server asked for, longer each time, never all clients at once. */
  #delay(response, failures) {
    const asked = Math.min(Number(response?.headers.get("Retry-After")) * 1000 || 0, MAX_ASKED);
    const backoff = Math.min(Math.max(MAX_BACKOFF, this.#retry), this.#retry * 2 ** Math.min(failures, MAX_DOUBLINGS));
    return Math.round(Math.max(asked, backoff) * (1 + Math.random() / 2));
  }

  async #sleep(ms) {
    await new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        this.#pauses.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, ms);
      this.#pauses.add(wake);
    });
  }

  #wake() {
    for (const wake of [...this.#pauses]) wake();
  }
}

const parts = (cursor) => cursor.split("-").map(Number);

const isFinal = (response) => response?.status >= 400 && response.status < 500 && !PASSING.has(response.status);

async function failure(response) {
  return new FollowError(response.status, await response.json().catch(() => null));
}

/** The frames of a server-sent event stream (HTML Living Standard, 9.2.6); one that broke off is none. */
async function* frames(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let frame = {};
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        const [, name, text = ""] = /^([^:]*)(?:: ?(.*))?$/s.exec(line);
        if (line === "") {
          if (frame.data !== undefined) yield frame;
          frame = {};
        } else if (name === "id") frame.id = text;
        else if (name === "event") frame.type = text;
        else if (name === "data") frame.data = frame.data === undefined ? text : `${frame.data}\n${text}`;
        else if (name === "retry" && /^\d+$/.test(text)) yield { retry: Number(text) };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
