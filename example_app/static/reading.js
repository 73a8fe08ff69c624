/** The page on which a text is read. */

import { openConversation, start } from "./conversation.js";

const byId = (id) => document.getElementById(id);

openConversation({
  show({ metadata: { author, words } }) {
    const facts = [author, words && `${words.toLocaleString("en")} words`].filter(Boolean);
    byId("about").textContent = facts.join(" · ");
  },
  again: () => start(byId("main").dataset.again, new FormData()),
});
