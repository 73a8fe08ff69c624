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

/** Events after `requested` and before `firstAvailable` are missing. */
export interface Gap {
  requested: string;
  firstAvailable: string;
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
  onGap?(gap: Gap): void;
  onEnd?(end: End): void;
  /** The session that was found. */
  onSession?(session: ActiveSession): void;
  /** The conversation has no session: nothing to follow. */
  onIdle?(): void;
  /** The server's final refusal (401, 403, 404, …). */
  onError?(error: FollowError): void;
  onConnection?(
    state: "connecting" | "open" | "waiting" | "closed",
    detail?: { /** ms */ retryIn: number },
  ): void;
  /** Where the blueprint is; default: where this module came from. */
  baseUrl?: string | URL;
  /** Follow this session instead of the most recent one. */
  sessionId?: string;
  /** Go on after this cursor instead of replaying. */
  cursor?: string;
  headers?: Record<string, string> | (() => Record<string, string> | Promise<Record<string, string>>);
  credentials?: RequestCredentials;
  signal?: AbortSignal;
  fetch?: typeof fetch;
  /** After how long without a byte the connection is given up (ms); the server writes every 15 s. */
  silence?: number;
}

export interface Following {
  readonly sessionId: string | null;
  readonly cursor: string | null;
  /** The end; null when there is nothing (more) to follow, or after close(). */
  readonly done: Promise<End | null>;
  /** End the following; the work goes on. */
  close(): void;
  /** Ask the work to stop; the end comes through onEnd. False when nothing is running. */
  stop(): Promise<boolean>;
}

export class FollowError extends Error {
  readonly status: number;
}

/** Follow the most recent task of a conversation: replay, go on, come back after every break. */
export function follow<Data = unknown>(conversationId: string, options?: FollowOptions<Data>): Following;

/** Whether cursor `a` comes after cursor `b`. */
export function isAfter(a: string, b: string): boolean;
