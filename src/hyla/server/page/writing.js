// Continuing a text: a plain field whose end the model writes on. What it wrote is tinted, and can be drawn again.

import { announce, el, find, Painter } from "./dom.js";
import { chosen, examples } from "./models.js";
import { describe, Tally } from "./numbers.js";
import { continuation } from "./settings.js";
import { answer } from "./stream.js";

const STORE = "hyla.text";
const MOST_STEPS_BACK = 50;

export class Writing {
  /** onChange: called when the model starts or stops writing. */
  constructor(onChange) {
    this.onChange = onChange;
    this.controller = null;
    this.field = find("#text");
    this.text = "";
    this.spans = []; // [start, end) of what the model wrote, in order
    this.before = []; // states to go back to
    this.numbers = this.error = "";
    this.painter = new Painter(() => {
      this.field.value = this.text;
      this.draw();
      follow();
    });
    this.field.addEventListener("input", () => this.typed());
    find("#undo").addEventListener("click", () => this.undo());
    find("#again").addEventListener("click", () => this.again());
  }

  get isBusy() {
    return this.controller !== null;
  }

  /** Show the text of the chosen model. */
  open() {
    this.leave();
    this.model = chosen();
    const kept = stored()[this.model];
    this.set(kept?.text ?? "", kept?.spans ?? []);
    this.before = [];
    this.say("");
    this.showExamples();
    this.draw();
  }

  /** Stop, and forget the stream at once: what it still brings belongs to no text that is shown. */
  leave() {
    this.stop();
    this.controller = null;
    this.field.readOnly = false;
    this.painter.cancel();
    if (this.model) keep(this.model, this.text, this.spans);
  }

  set(text, spans) {
    this.text = this.field.value = text;
    this.spans = spans;
  }

  showExamples() {
    const chips = examples().map((text) =>
      el("button", { type: "button", class: "chip", title: text, onclick: () => this.begin(text) }, text.trim().split("\n")[0]),
    );
    find("#examples").hidden = !chips.length;
    find("#examples div").replaceChildren(...chips);
  }

  /** Start anew with a text and have it continued. */
  async begin(text) {
    if (this.isBusy) return;
    this.keepState();
    this.set(text, []);
    await this.goOn();
  }

  /** Have the text continued. */
  async goOn() {
    if (this.isBusy || !this.text) return;
    const controller = (this.controller = new AbortController());
    const tally = new Tally();
    this.keepState();
    this.spans.push([this.text.length, this.text.length]);
    this.say("");
    this.field.readOnly = true;
    this.draw();
    let problem = null;
    try {
      const body = { model: this.model, ...continuation(), prompt: this.text };
      for await (const news of answer("v1/completions", body, controller.signal)) {
        if (this.controller !== controller) return;
        tally.take(news);
        this.append(news.text);
      }
    } catch (error) {
      problem = error;
    }
    if (this.controller === controller) this.end(tally, problem);
  }

  append(text) {
    if (!text) return;
    this.text += text;
    this.spans.at(-1)[1] = this.text.length;
    this.painter.ask();
  }

  end(tally, problem) {
    this.controller = null;
    this.painter.cancel();
    const isStopped = problem?.name === "AbortError";
    this.spans = this.spans.filter(([start, end]) => end > start);
    this.set(this.text, this.spans);
    this.field.readOnly = false;
    this.isFresh = true;
    const counts = tally.count(isStopped);
    counts.ending ??= tally.finish === "stop" ? "the text ends here" : null;
    this.say(describe(counts), problem && !isStopped ? problem.message : "");
    this.draw();
    follow();
    announce(this.error || (isStopped ? "Stopped" : `Continued. ${this.text.slice(this.spans.at(-1)?.[0] ?? 0).slice(0, 300)}`));
  }

  stop() {
    this.controller?.abort();
  }

  /** Drop what the model wrote last and have it write that anew. */
  async again() {
    const [start, end] = this.spans.at(-1) ?? [];
    if (this.isBusy || end !== this.text.length) return;
    this.keepState();
    this.set(this.text.slice(0, start), this.spans.slice(0, -1));
    await this.goOn();
  }

  clear() {
    this.leave();
    if (this.text) this.keepState();
    this.set("", []);
    this.say("");
    this.draw();
    announce("New text");
  }

  undo() {
    if (this.isBusy || !this.before.length) return;
    const { text, spans } = this.before.pop();
    this.set(text, spans);
    this.say("");
    this.draw();
    this.field.focus();
  }

  keepState() {
    const last = this.before.at(-1);
    if (last?.text !== this.text) this.before.push({ text: this.text, spans: this.spans.map((span) => [...span]) });
    if (this.before.length > MOST_STEPS_BACK) this.before.shift();
  }

  /** The reader changed the text: the tinted parts move with it, and what was typed inside of one is the reader's. */
  typed() {
    if (this.isFresh) this.keepState();
    this.isFresh = false;
    const [old, now] = [this.text, this.field.value];
    const most = Math.min(old.length, now.length);
    let head = 0;
    while (head < most && old[head] === now[head]) head += 1;
    let tail = 0;
    while (tail < most - head && old.at(-1 - tail) === now.at(-1 - tail)) tail += 1;
    const [cut, grown] = [old.length - tail, now.length - old.length];
    this.spans = this.spans.flatMap(([start, end]) => [
      [start, Math.min(end, head)],
      [Math.max(start, cut) + grown, end + grown],
    ]).filter(([start, end]) => end > start);
    this.text = now;
    this.draw();
  }

  say(numbers, error = "") {
    this.numbers = numbers;
    this.error = error;
  }

  draw() {
    const parts = [];
    let at = 0;
    for (const [start, end] of this.spans) {
      parts.push(this.text.slice(at, start), el("mark", {}, this.text.slice(start, end)));
      at = end;
    }
    find("#mirror").replaceChildren(...parts, this.text.slice(at), "\n");
    find("#text-numbers").textContent = this.isBusy ? "Writing …" : this.numbers;
    find("#text-error").textContent = this.error;
    find("#text-error").hidden = !this.error;
    find("#undo").disabled = this.isBusy || !this.before.length;
    find("#again").disabled = this.isBusy || this.spans.at(-1)?.[1] !== this.text.length;
    find("#continue").disabled = !this.text;
    if (!this.isBusy) keep(this.model, this.text, this.spans);
    this.onChange();
  }
}

function stored() {
  try {
    return JSON.parse(sessionStorage.getItem(STORE) ?? "{}");
  } catch {
    return {};
  }
}

function keep(model, text, spans) {
  try {
    sessionStorage.setItem(STORE, JSON.stringify({ ...stored(), [model]: { text, spans } }));
  } catch {
    // Too long to keep: a reload starts anew.
  }
}

/** Keep the end of the text in view while the reader is there. */
function follow() {
  const box = find("#scroller");
  if (box.scrollHeight - box.scrollTop - box.clientHeight < 160) box.scrollTop = box.scrollHeight;
}
