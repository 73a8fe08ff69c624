/** Times as people say them. */

const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60]];
const words = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

/** Fills a `<time>` with a time in Unix ms. */
export function showTime(node, ms) {
  node.dateTime = new Date(ms).toISOString();
  node.textContent = ago((Date.now() - ms) / 1000);
  return node;
}

function ago(seconds) {
  const [unit, length] = UNITS.find(([, length]) => seconds >= length) ?? [];
  return unit ? words.format(-Math.floor(seconds / length), unit) : "just now";
}
