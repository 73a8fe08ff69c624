/**
 * Follows what is running for a conversation: finds its session, shows everything so far, goes on, and comes back after
 * every break. No event is shown twice, and nothing is missing without a word. Types: client.d.ts beside this file.
 *
 *   import { follow } from "/api/v1/client.js";
 *   const following = follow(conversationId, { onEvent: ({ type, data }) => …, onEnd: ({ state }) => … });
 *   following.stop();   // asks the work to stop;  following.close();   // only ends the following
 */

const FIRST_BACKOFF = 500;
const MAX_BACKOFF = 15_000;
const SILENCE = 45_000;
const FINAL = new Set([400, 401, 403, 404, 405, 410, 422]);

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

class Following {
  #options;
  #base;
  #conversation;
  #closed = new AbortController();
  #cursor;
  #retry = FIRST_BACKOFF;
  #failures = 0;
  #wake = () => {};

  constructor(conversationId, options) {
    this.#options = options;
    const base = options.baseUrl ?? new URL(".", import.meta.url);
    this.#base = String(base).replace(/\/*$/, "");
    this.#conversation = `${this.#base}/conversations/${encodeURIComponent(conversationId)}`;
    this.#cursor = options.cursor ?? null;
    this.sessionId = options.sessionId ?? null;
    options.signal?.addEventListener("abort", () => this.close(), { once: true });
    globalThis.addEventListener?.("online", this.#online);
    /** Resolves with the end, or with null when nothing is there to follow or close() was called. */
    this.done = this.#run().finally(() => globalThis.removeEventListener?.("online", this.#online));
    this.done.catch(() => {});
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

  /** Ask the work to stop; the end comes through onEnd. False when nothing is running. */
  async stop() {
    const query = this.sessionId === null ? "" : `?session_id=${encodeURIComponent(this.sessionId)}`;
    for (;;) {
      const response = await this.#fetch(`${this.#conversation}/stop${query}`, { method: "POST" }).catch(() => null);
      if (response?.ok) return true;
      if (response?.status === 404 || response?.status === 409 || this.#closed.signal.aborted) return false;
      if (response !== null && FINAL.has(response.status)) throw await failure(response);
      await this.#pause(response);
    }
  }

  #online = () => this.#wake();

  async #run() {
    try {
      if (this.sessionId === null && !(await this.#find())) return null;
      for (;;) {
        const end = await this.#stream();
        if (end !== undefined || this.#closed.signal.aborted) return end ?? null;
      }
    } catch (error) {
      if (this.#closed.signal.aborted) return null;
      this.#options.onError?.(error);
      throw error;
    } finally {
      this.#tell("closed");
    }
  }

  /** Learn the session; false when the conversation has none. */
  async #find() {
    while (!this.#closed.signal.aborted) {
      this.#tell("connecting");
      const response = await this.#fetch(`${this.#conversation}/active-session`).catch(() => null);
      if (response?.ok) {
        const found = await response.json();
        this.sessionId = found.sessionId;
        this.#options.onSession?.(found);
        return true;
      }
      if (response?.status === 404) {
        this.#options.onIdle?.();
        return false;
      }
      if (response !== null && FINAL.has(response.status)) throw await failure(response);
      await this.#pause(response);
    }
    return false;
  }

  /** One connection: the end (null when there is nothing more), or undefined when it broke off. */
  async #stream() {
    this.#tell("connecting");
    const connection = new AbortController();
    const abort = () => connection.abort();
    this.#closed.signal.addEventListener("abort", abort, { once: true });
    let silence;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(abort, this.#options.silence ?? SILENCE);
    };
    let response = null;
    try {
      heard();
      const query = this.#cursor === null ? "" : `?cursor=${encodeURIComponent(this.#cursor)}`;
      const url = `${this.#conversation}/resume/${encodeURIComponent(this.sessionId)}${query}`;
      response = await this.#fetch(url, { headers: { Accept: "text/event-stream" }, signal: connection.signal });
      if (response.status === 204) return null;
      if (FINAL.has(response.status)) throw await failure(response);
      if (response.ok) {
        for await (const frame of frames(response.body, heard)) {
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
    }
    await this.#pause(response);
    return undefined;
  }

  /** Show a frame once; returns the end's data with the last. */
  #take({ id, type, data, retry }) {
    if (retry !== undefined) this.#retry = retry;
    if (data === undefined) return undefined;
    this.#failures = 0;
    this.#tell("open");
    if (id !== undefined && type !== "end") {
      if (this.#cursor !== null && !isAfter(id, this.#cursor)) return undefined;
      this.#cursor = id;
    }
    const value = JSON.parse(data);
    const { onEvent, onStatus, onAttempt, onGap, onEnd } = this.#options;
    if (type === "status") onStatus?.(value);
    else if (type === "gap") {
      if (value.firstAvailable === "0-0" || !isAfter(value.firstAvailable, value.requested)) this.#cursor = null;
      onGap?.(value);
    } else if (type === "attempt") (onAttempt ?? onEvent)?.(onAttempt ? value : { type, data: value, cursor: id });
    else if (type === "end") {
      this.#cursor = id ?? this.#cursor;
      onEnd?.(value);
      return value;
    } else onEvent?.({ type, data: value, cursor: id });
    return undefined;
  }

  #state;

  #tell(state, detail) {
    if (state === this.#state && detail === undefined) return;
    this.#state = state;
    this.#options.onConnection?.(state, detail);
  }

  async #fetch(url, init = {}) {
    const given = this.#options.headers;
    const headers = { ...(typeof given === "function" ? await given() : given), ...init.headers };
    const credentials = this.#options.credentials ?? "same-origin";
    return (this.#options.fetch ?? fetch)(url, { cache: "no-store", credentials, ...init, headers });
  }

  /** Wait before the next try: as the server asked, else longer each time, never all clients at once. */
  async #pause(response) {
    if (this.#closed.signal.aborted) return;
    const asked = Number(response?.headers.get("Retry-After")) * 1000 || 0;
    const backoff = Math.min(MAX_BACKOFF, this.#retry * 2 ** Math.min(this.#failures, 10));
    this.#failures += 1;
    const wait = Math.max(asked, backoff) * (0.5 + Math.random() / 2);
    this.#tell("waiting", { retryIn: Math.round(wait) });
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, wait);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#wake = () => {};
  }
}

async function failure(response) {
  return new FollowError(response.status, await response.json().catch(() => null));
}

/** Whether cursor `a` comes after cursor `b`: by epoch, then by number. */
export function isAfter(a, b) {
  const [epoch, number] = a.split("-").map(Number);
  const [otherEpoch, otherNumber] = b.split("-").map(Number);
  return epoch > otherEpoch || (epoch === otherEpoch && number > otherNumber);
}

/** The frames of a server-sent event stream (HTML Living Standard, 9.2.6). */
async function* frames(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let frame = {};
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      const [, name, text] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? [];
      if (line === "") {
        if (frame.data !== undefined) yield frame;
        frame = {};
      } else if (name === "id") frame.id = text;
      else if (name === "event") frame.type = text;
      else if (name === "data") frame.data = frame.data === undefined ? text : `${frame.data}\n${text}`;
      else if (name === "retry" && /^\d+$/.test(text)) yield { retry: Number(text) };
    }
  }
}
