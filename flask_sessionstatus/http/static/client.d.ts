/** The data of the last frame. `lost`: the worker is gone; the task may still come back. */
export interface End {
  state: "completed" | "error" | "cancelled" | "lost";
  errorType: string | null;
  errorMessage: string | null;
  taskId: string;
}

export interface Status {
  state: "pending" | "running" | "completed" | "error" | "cancelled" | "lost";
  attempt: number;
  current: number | null;
  total: number | null;
  note: string | null;
  /** Unix ms. */
  estimatedCompletion: number | null;
}

/** Something is missing between `requested`, where the client was, and `firstAvailable`, which comes next. */
export interface Gap {
  requested: string;
  /** "0-0": nothing is there yet. */
  firstAvailable: string;
  /** What follows does not continue what came before `requested` (that is gone, or of another attempt): clear it. */
  startsOver: boolean;
}

export interface StreamEvent<Data = unknown> {
  type: string;
  data: Data;
  /** `<epoch>-<number>` */
  cursor: string;
}

export interface ActiveSession {
  sessionId: string;
  status: "active" | "idle" | "completed";
  cursor: string;
  conversationId: string;
  /** Unix ms. */
  startedAt: number;
  /** Unix ms. */
  lastActivity: number;
}

export interface FollowOptions<Data = unknown> {
  /** Each event once, in order. */
  onEvent?(event: StreamEvent<Data>): void;
  onStatus?(status: Status): void;
  /** A retry begins: clear what the earlier attempt showed. Without it the attempt comes through onEvent. */
  onAttempt?(attempt: { attempt: number }): void;
  /** Once for each gap, where it is. */
  onGap?(gap: Gap): void;
  onEnd?(end: End): void;
  /** The session that was found. */
  onSession?(session: ActiveSession): void;
  /** The conversation has no session, or nothing was started in it: nothing to follow. */
  onIdle?(): void;
  /** The server's final refusal (401, 403, 404, …); `done` rejects with it. */
  onError?(error: FollowError): void;
  /** `waiting` for the next try comes with its delay (ms); `closed` is the last. */
  onConnection?(state: "connecting" | "open" | "waiting" | "closed", detail?: { retryIn: number }): void;
  /** Where the blueprint is; default: where this module came from. */
  baseUrl?: string | URL;
  /** Follow this session instead of the most recent one. */
  sessionId?: string;
  /** Go on after this cursor of that session instead of replaying. */
  cursor?: string;
  /** Sent with each request; a function is asked each time. */
  headers?: Record<string, string> | (() => Record<string, string> | Promise<Record<string, string>>);
  /** Default: "same-origin". */
  credentials?: RequestCredentials;
  /** Aborting it is close(). */
  signal?: AbortSignal;
  fetch?: typeof fetch;
  /** After how long without a byte the connection is given up (ms, default 45,000); the server writes every 15 s. */
  silence?: number;
}

export interface Following {
  readonly sessionId: string | null;
  /** The cursor of the last event that was shown. */
  readonly cursor: string | null;
  /** The end; null when there is nothing (more) to follow, or after close(). Rejects with a FollowError. */
  readonly done: Promise<End | null>;
  /** End the following; the work goes on. */
  close(): void;
  /** Ask the work to stop; the end comes through onEnd. False when nothing is running, or nobody could be asked. */
  stop(): Promise<boolean>;
}

export class FollowError extends Error {
  constructor(status: number, body?: { error?: string } | null);
  readonly status: number;
}

/** Follow the most recent task of a conversation: replay, go on, come back after every break. */
export function follow<Data = unknown>(conversationId: string, options?: FollowOptions<Data>): Following;

/** Whether cursor `a` comes after cursor `b`. */
export function isAfter(a: string, b: string): boolean;
