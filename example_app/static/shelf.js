/** The assistant's first page: sends the first question, and goes to its conversation. */

import { ApiError, post } from "./api.js";
import { askWith } from "./question.js";
import { Rail } from "./rail.js";

const form = document.getElementById("begin");
const problem = document.getElementById("problem");

new Rail();
addEventListener("pageshow", (event) => event.persisted && location.reload());
askWith(form, async (question) => {
  problem.textContent = "";
  document.body.classList.add("sending");
  try {
    const { page } = await post(form.action, question);
    location.assign(page);
    return true;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    problem.textContent = error.message;
    document.body.classList.remove("sending");
    return false;
  }
});
