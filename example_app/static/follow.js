/**
 * Follows the stream of one task, from its first event to its end.
 *
 * EventSource connects again by itself and sends the id of the last event it has seen, so nothing comes twice and
 * nothing is left out; where the server no longer holds everything, it says so with a `gap`.
 *
 * `handlers`: event(type, data) for the types asked for, status(data), attempt(data), gap(data), end(data),
 * connection("open" | "lost" | "closed"); "closed" means that the browser will not try again.
 * Returns a function that stops following.
 */
export function follow(url, types, handlers) {
  const source = new EventSource(url);
  const on = (type, handle) => source.addEventListener(type, (event) => handle(JSON.parse(event.data)));

  for (const type of types) on(type, (data) => handlers.event(type, data));
  on("status", handlers.status);
  on("attempt", handlers.attempt);
  on("gap", handlers.gap);
  on("end", (data) => {
    source.close();
    handlers.end(data);
  });
  source.onopen = () => handlers.connection("open");
  source.onerror = () => handlers.connection(source.readyState === EventSource.CLOSED ? "closed" : "lost");
  return () => source.close();
}
