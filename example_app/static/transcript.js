/** What was asked and told, as the page shows it. */

const OUTCOMES = {
  cancelled: "Stopped.",
  error: "This could not be finished.",
  lost: "The work stopped unexpectedly.",
  gone: "What was told here is no longer kept.",
};

/** One task and what came of it: a question, unless it is the summary, and the sentences told. */
export class Exchange {
  constructor() {
    this.node = element("article", "exchange");
    this.asked = null;
    this.meant = null;
    this.told = element("div", "told");
    this.outcome = element("p", "outcome");
    this.node.append(this.told, this.outcome);
    this.clear();
  }

  /** Forgets what a stream has told. */
  clear() {
    this.told.replaceChildren();
    this.outcome.replaceChildren();
    this.place = null;
    this.words = null;
  }

  question({ text }) {
    if (!this.asked) {
      this.asked = element("p", "question");
      this.node.prepend(this.asked);
    }
    this.asked.textContent = text;
  }

  /** Says how a question was understood that cannot be understood alone. */
  understood({ text }) {
    if (!this.meant) {
      this.meant = element("p", "understood");
      this.told.before(this.meant);
    }
    this.meant.textContent = `Understood as: ${text}`;
  }

  /** Begins a sentence; the words that follow belong to it. */
  sentence({ number, section, heading }) {
    const place = heading || `Section ${section}`;
    if (place !== this.place) this.told.append(element("h2", "place", place));
    this.place = place;
    const line = element("p", "line");
    const mark = element("span", "number", String(number));
    mark.title = `Sentence ${number} of the text`;
    this.words = document.createTextNode("");
    line.append(mark, this.words);
    this.told.append(line);
  }

  token({ text }) {
    if (!this.words) {
      const line = element("p", "line plain");
      this.words = document.createTextNode("");
      line.append(this.words);
      this.told.append(line);
    }
    this.words.appendData(this.words.length ? text : text.trimStart());
  }

  /** Says, where it happened, that something is missing. */
  gap() {
    this.told.append(element("p", "missing", "Something is missing here: the server no longer has it."));
    this.words = null;
  }

  /** Shows a stored turn in place of its stream. */
  turn({ content, sources }) {
    this.clear();
    if (!Array.isArray(sources) || !sources.length) return this.token({ text: content });
    for (const source of sources) {
      this.sentence(source);
      this.token(source);
    }
  }

  set live(live) {
    this.node.classList.toggle("live", live);
    this.told.setAttribute("aria-busy", String(live));
  }

  end(state, again) {
    this.live = false;
    if (this.words && !this.words.length) this.words.parentNode.remove();
    this.outcome.textContent = OUTCOMES[state] ?? "";
    this.outcome.dataset.state = state;
    if (again && OUTCOMES[state]) {
      const button = element("button", "link", "Read it again");
      button.type = "button";
      button.addEventListener("click", again);
      this.outcome.append(" ", button);
    }
  }

  get lastSentence() {
    return this.words?.data ?? "";
  }
}

export function element(name, className, text = "") {
  const node = document.createElement(name);
  node.className = className;
  node.textContent = text;
  return node;
}
