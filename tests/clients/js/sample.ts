// Every option and member as a strict program uses them; each @ts-expect-error must be one.
import { follow, FollowError, isAfter, type End, type Following, type Gap } from "./client.js";

interface Token {
  text: string;
}

const controller = new AbortController();
let cleared: boolean | undefined;
const following: Following = follow<Token>("c 1", {
  onEvent: ({ type, data, cursor }) => console.log(type === "token" ? data.text.length : 0, cursor.length),
  onStatus: ({ state, current, total, note, estimatedCompletion, attempt }) => {
    const percent: number = current !== null && total !== null ? current / total : 0;
    console.log(state === "pending", percent, note?.length, estimatedCompletion ?? 0, attempt + 1);
  },
  onAttempt: ({ attempt }) => console.log(attempt + 1),
  onGap: ({ requested, firstAvailable, startsOver }: Gap) => {
    cleared = startsOver && isAfter(requested, firstAvailable);
  },
  onEnd: ({ state, errorMessage, errorType, taskId }: End) => console.log(state === "lost", errorMessage?.length, errorType, taskId),
  onSession: ({ sessionId, status, cursor, startedAt, lastActivity, conversationId }) =>
    console.log(sessionId, status === "idle", cursor, startedAt + lastActivity, conversationId),
  onIdle: () => console.log(cleared),
  onError: (error) => console.log(error instanceof FollowError, error.status + 1, error.message),
  onConnection: (state, detail) => console.log(state === "waiting" ? (detail?.retryIn ?? 0) + 1 : state),
  baseUrl: new URL("http://localhost/api/v1/"),
  sessionId: "s 1",
  cursor: "1-1",
  headers: async () => ({ "X-Namespace-Key": "…" }),
  credentials: "include",
  signal: controller.signal,
  fetch: globalThis.fetch,
  silence: 30_000,
});
const end: End | null = await following.done;
const stopped: boolean = await following.stop();
following.close();
console.log(end?.state, stopped, following.sessionId ?? "", following.cursor ?? "");
console.log(new FollowError(404, { error: "Gone." }).status, follow("c").done);

// @ts-expect-error: a state that there is not
if (end?.state === "running") console.log();
// @ts-expect-error: read only
following.cursor = "1-1";
// @ts-expect-error: no such option
follow("c", { onToken: () => {} });
// @ts-expect-error: data is unknown unless its type is given
follow("c", { onEvent: ({ data }) => data.text });
