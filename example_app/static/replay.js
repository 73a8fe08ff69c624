/** The events of a task that has ended, page by page. */

import { get } from "./api.js";

export async function* replayed(url) {
  for (let cursor = "0-0", done = false; !done; ) {
    const page = await get(`${url}?cursor=${cursor}`);
    yield* page.events;
    done = page.done || !page.events.length;
    cursor = page.cursor;
  }
}
