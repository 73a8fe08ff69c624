// A page whose only setting is where the API is; `window.chat` is what useChat shows.
import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";
import { createElement, useEffect } from "react";
import { createRoot } from "react-dom/client";

const transport = new DefaultChatTransport({ api: "/api/v1/conversations" });
window.chat = { status: null, seen: [], finished: [], data: [] };

function Chat({ id }) {
  const { messages, status, error, stop } = useChat({
    id,
    resume: true,
    transport,
    onData: (part) => window.chat.data.push(part),
    onFinish: ({ message, isError }) => window.chat.finished.push({ id: message.id, isError }),
  });
  useEffect(() => {
    const text = messages.map(({ parts }) => parts.map((part) => part.text ?? "").join("")).join("\n\n");
    Object.assign(window.chat, { status, text, messages: messages.length, error: error?.message ?? null, stop });
    if (window.chat.seen.at(-1) !== status) window.chat.seen.push(status);
  });
  return null;
}

window.open_chat = (id) => createRoot(document.getElementById("root")).render(createElement(Chat, { id }));
