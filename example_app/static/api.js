/** Requests to the host and to the session status API. */

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const PATIENCE = 15000;
const NEXT = /<([^>]*)>;\s*rel="next"/;

let clockOffset = 0;

/** The server's time in ms, as far as its Date headers tell. */
export const serverNow = () => Date.now() + clockOffset;

export const get = async (url) => (await ask(url)).body;
export const post = async (url, form) => (await request(url, { method: "POST", body: form })).body;
export const patch = async (url, value) => (await request(url, { method: "PATCH", ...json(value) })).body;
export const remove = async (url) => (await request(url, { method: "DELETE" })).body;

/** One page of a list, and the URL of the next one: null behind the last. */
export async function getPage(url) {
  const { body, response } = await ask(url);
  return { items: body, next: NEXT.exec(response.headers.get("Link"))?.[1] ?? null };
}

const ask = (url) => request(url, { cache: "no-cache", signal: AbortSignal.timeout(PATIENCE) });
const json = (value) => ({ body: JSON.stringify(value), headers: { "Content-Type": "application/json" } });

/** The answer and its JSON. Throws ApiError; its status is 0 when there was no answer at all. */
async function request(url, options) {
  let response;
  try {
    response = await fetch(url, { credentials: "same-origin", ...options });
  } catch {
    throw new ApiError(0, "The server cannot be reached.");
  }
  noteClock(response);
  const body = await response.json().catch(() => null);
  if (response.ok && body === null) throw new ApiError(0, "The answer did not arrive whole.");
  if (!response.ok) throw new ApiError(response.status, body?.error ?? body?.message ?? sentence(response));
  return { response, body };
}

function noteClock(response) {
  const date = Date.parse(response.headers.get("Date"));
  const offset = date - Date.now();
  if (!Number.isNaN(offset)) clockOffset = Math.abs(offset) > 5000 ? offset : 0;
}

const sentence = (response) => `The server answered ${response.status} ${response.statusText}.`;
