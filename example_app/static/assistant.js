/** The page on which the assistant is asked: it shows what the conversation is about, and lets that go. */

import { openConversation, start } from "./conversation.js";

const byId = (id) => document.getElementById(id);

openConversation({
  show({ currentSlots }) {
    byId("about").textContent = "Answers from the shelf";
    byId("topic").textContent = currentSlots.topic ?? "";
    byId("memory").hidden = !currentSlots.topic;
  },
});

byId("forget").addEventListener("click", async () => {
  const form = new FormData();
  form.set("question", byId("forget").textContent);
  byId("question").focus();
  await start(byId("ask").action, form);
});
