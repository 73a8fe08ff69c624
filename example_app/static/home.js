/** The first page: sends a text, pasted, uploaded or picked, and goes to its conversation. */

import { post } from "./api.js";
import { Rail } from "./rail.js";

const byId = (id) => document.getElementById(id);
const form = byId("submit");
const text = byId("text");
const file = byId("file");
const count = byId("count");
const problem = byId("problem");
const maxBytes = Number(form.dataset.maxBytes);

new Rail();
text.addEventListener("input", changed);
file.addEventListener("change", changed);
form.addEventListener("submit", send);
for (const type of ["dragover", "dragleave", "drop"]) form.addEventListener(type, drag);
addEventListener("pageshow", (event) => event.persisted && location.reload());
describe();

function changed() {
  problem.textContent = "";
  describe();
}

function describe() {
  const chosen = file.files[0];
  text.disabled = Boolean(chosen);
  const words = text.value.split(/\s+/).filter(Boolean).length;
  if (!chosen) return void (count.textContent = words ? `${words.toLocaleString("en")} ${words === 1 ? "word" : "words"}` : "");
  const remove = document.createElement("button");
  remove.type = "button";
  remove.className = "link";
  remove.textContent = "Remove";
  remove.addEventListener("click", () => {
    file.value = "";
    changed();
    text.focus();
  });
  count.replaceChildren(`${chosen.name} `, remove);
}

function drag(event) {
  event.preventDefault();
  form.classList.toggle("over", event.type === "dragover");
  if (event.type === "drop" && event.dataTransfer.files.length) {
    file.files = event.dataTransfer.files;
    changed();
  }
}

async function send(event) {
  event.preventDefault();
  const picked = event.submitter?.name === "bundled" ? event.submitter.value : null;
  const content = new FormData();
  if (picked) content.set("bundled", picked);
  else if (file.files[0]) content.set("file", file.files[0]);
  else content.set("text", text.value);
  if (!picked && !file.files[0] && !text.value.trim()) return refuse("Paste a text, choose a file, or take one from the shelf.");
  if (!picked && size() > maxBytes) return refuse(`The text is too long: ${megabytes(maxBytes)} is the most.`);

  busy(true, event.submitter);
  try {
    const { page } = await post(form.action, content);
    location.assign(page);
  } catch (error) {
    refuse(error.message);
    busy(false, event.submitter);
  }
}

function refuse(message) {
  problem.textContent = message;
  if (!file.files[0]) text.focus();
}

function busy(sending, button) {
  document.body.classList.toggle("sending", sending);
  button?.setAttribute("aria-busy", String(sending));
}

const size = () => file.files[0]?.size ?? new TextEncoder().encode(text.value).length;
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
