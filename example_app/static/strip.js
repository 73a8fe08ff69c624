/** The strip over the question field: what is being done, how far it is, and how long it will take. */

import { serverNow } from "./api.js";

const byId = (id) => document.getElementById(id);
const SETTLED = {
  completed: ["Finished", "Finished"],
  cancelled: ["Stopped", "Stopped"],
  error: ["Failed", "This could not be finished"],
  lost: ["Broke off", "The work stopped unexpectedly"],
};

export class Strip {
  constructor(stop) {
    this.node = byId("strip");
    this.progress = byId("progress");
    this.doing = byId("doing");
    this.left = byId("left");
    this.stop = byId("stop");
    this.state = byId("state");
    this.estimate = null;
    this.retryAt = null;
    this.stop.addEventListener("click", () => {
      this.stop.disabled = true;
      this.stop.textContent = this.stop.dataset.stopping = "Stopping…";
      stop();
    });
    setInterval(() => this.tick(), 1000);
  }

  /** A task has begun, or was found to be running. */
  begin(task) {
    this.stoppable(true);
    this.retryAt = null;
    this.kind = task.type;
    this.startedAt = task.startedAt ?? task.createdAt;
    this.show("running", task.type === "summary" ? "Reading" : "Looking it up");
    this.update({
      current: task.progress?.current,
      total: task.progress?.total,
      note: task.progress?.message,
      estimatedCompletion: task.estimatedCompletion,
    });
  }

  /** A status frame, or the task as it was read. */
  update({ current, total, note, estimatedCompletion }) {
    this.estimate = estimatedCompletion;
    if (total) {
      this.progress.max = total;
      this.progress.value = current;
      const section = Math.min(current + 1, total);
      const step = this.kind === "summary" ? `Section ${section} of ${total}` : `Sentence ${section} of ${total}`;
      this.said = note ? `${step} · ${note}` : step;
    } else {
      this.progress.removeAttribute("value");
      this.said = note || "Beginning…";
    }
    this.doing.textContent = this.said;
    this.tick();
  }

  /** `open`, or `waiting` for `retryIn` ms. */
  connection(state, retryIn) {
    if (this.node.dataset.state === "settled") return;
    const lost = state !== "open";
    this.show(lost ? "lost" : "running", lost ? "Reconnecting" : this.label);
    this.retryAt = lost ? Date.now() + retryIn : null;
    if (lost) this.countDown();
    else this.doing.textContent = this.said;
  }

  countDown() {
    const seconds = Math.ceil((this.retryAt - Date.now()) / 1000);
    this.doing.textContent = seconds > 0 ? `Connection lost, trying again in ${seconds} s` : "Connection lost, trying again…";
  }

  /** The task has ended in `state`; `seconds` is how long it took, if that is known. */
  end(state, seconds) {
    this.estimate = null;
    this.startedAt = null;
    this.retryAt = null;
    this.stoppable(false);
    this.progress.max = 1;
    this.progress.value = state === "completed" ? 1 : this.progress.value;
    const [label, sentence] = SETTLED[state] ?? ["", "\u00a0"];
    this.show("settled", label);
    this.state.dataset.outcome = state;
    this.doing.textContent = sentence;
    this.left.textContent = seconds ? `${state === "completed" ? "in" : "after"} ${duration(seconds)}` : "\u00a0";
  }

  stoppable(stoppable) {
    this.stop.disabled = !stoppable;
    this.stop.textContent = "Stop";
    delete this.stop.dataset.stopping;
  }

  show(state, label) {
    this.node.dataset.state = state;
    this.state.dataset.state = state;
    this.state.textContent = label || "\u00a0";
    if (state === "running") this.label = label;
    delete this.state.dataset.outcome;
  }

  tick() {
    if (this.retryAt) this.countDown();
    if (!this.startedAt) return;
    const elapsed = (serverNow() - this.startedAt) / 1000;
    const left = this.estimate ? (this.estimate - serverNow()) / 1000 : 0;
    this.left.textContent = left > 0 ? `about ${duration(roughly(left))} left` : `${duration(elapsed)} so far`;
  }
}

/** Seconds as nobody would mistake them for exact. */
function roughly(seconds) {
  const step = seconds > 90 ? 30 : seconds > 20 ? 10 : 5;
  return Math.max(step, Math.round(seconds / step) * step);
}

function duration(seconds) {
  const whole = Math.max(1, Math.round(seconds));
  if (whole < 90) return `${whole} s`;
  const minutes = Math.round(whole / 30) / 2;
  return `${String(minutes).replace(".5", "½").replace(/^0½/, "½")} min`;
}
