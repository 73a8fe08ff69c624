// eventsource.mjs <url>: follows with npm's eventsource until that gives up.
import { EventSource } from "eventsource";

const tell = (on, value) => console.log(JSON.stringify({ on, ...value }));
const source = new EventSource(process.argv[2]);
for (const type of ["token", "end"]) {
  source.addEventListener(type, ({ data, lastEventId }) => tell(type, { data: JSON.parse(data), id: lastEventId }));
}
source.addEventListener("error", ({ code }) => {
  if (source.readyState === EventSource.CLOSED) tell("closed", { code });
});
