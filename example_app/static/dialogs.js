/** Questions that have to be answered before something is done. */

import { ApiError } from "./api.js";

/** Shows the dialog until `action`, given its form's data, is done or somebody thinks better of it; true when done. */
export function decide(dialog, action) {
  const form = dialog.querySelector("form");
  const problem = dialog.querySelector(".problem");
  const over = new AbortController();
  let done = false;
  problem.textContent = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const on = (node, type, listener) => node.addEventListener(type, listener, { signal: over.signal });
    on(form.querySelector("[data-cancel]"), "click", () => dialog.close());
    on(dialog, "close", () => {
      over.abort();
      resolve(done);
    });
    on(form, "submit", async (event) => {
      event.preventDefault();
      if (form.dataset.sending) return;
      form.dataset.sending = "yes";
      problem.textContent = "";
      try {
        await action(new FormData(form));
        done = true;
        dialog.close();
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        problem.textContent = error.message;
      } finally {
        delete form.dataset.sending;
      }
    });
  });
}
