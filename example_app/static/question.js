/** The field in which a question is asked. */

const MOST_ROWS = 6;

/** Sends the form with Enter; `send`, given the form and the button, tells whether it was taken, and then it is emptied. */
export function askWith(form, send) {
  const question = form.querySelector("textarea");
  const grow = () => {
    question.rows = Math.min(MOST_ROWS, Math.max(form.dataset.rows ?? 1, question.value.split("\n").length));
  };
  question.addEventListener("input", grow);
  question.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const picked = event.submitter?.value;
    if (form.dataset.sending || !(picked || question.value.trim())) return;
    form.dataset.sending = "yes";
    if (await send(new FormData(form, event.submitter))) {
      question.value = "";
      grow();
    }
    delete form.dataset.sending;
  });
}
