/** Where on the page somebody is reading. */

const NEAR_THE_END = 80;

let pinned = true;
let scrolling = 0;

addEventListener("scroll", () => {
  pinned = document.documentElement.scrollHeight - innerHeight - scrollY < NEAR_THE_END;
}, { passive: true });

/** From now on the page's end is where somebody is reading. */
export function pinToEnd() {
  pinned = true;
}

/** Changes the page; who is reading at its end stays at its end, everybody else stays where they are. */
export function keepingPlace(change) {
  change();
  if (!pinned || scrolling) return;
  scrolling = requestAnimationFrame(() => {
    scrolling = 0;
    scrollTo(0, document.documentElement.scrollHeight);
  });
}
