// The conversation: its turns as data and as nodes, and the answer that is being streamed.

import { announce, copyButton, el, find, Painter } from "./dom.js";
import { MarkdownView } from "./markdown.js";
import { describe, Tally } from "./numbers.js";
import { chatting, systemMessage } from "./settings.js";
import { answer, splitThinking } from "./stream.js";

const STORE = "hyla.conversation";

export class Conversation {
  /** model: gives the chosen model's name. onChange: called when an answer starts or ends. */
  constructor(model, onChange) {
    this.model = model;
    this.onChange = onChange;
    this.turns = [];
    this.controller = null;
  }

  get isBusy() {
    return this.controller !== null;
  }

  restore() {
    try {
      for (const kept of JSON.parse(sessionStorage.getItem(STORE) ?? "[]")) this.add(kept);
    } catch {
      sessionStorage.removeItem(STORE);
    }
    this.changed();
  }

  changed() {
    const kept = this.turns.map(({ role, content, reasoning, numbers, error }) => ({ role, content, reasoning, numbers, error }));
    try {
      sessionStorage.setItem(STORE, JSON.stringify(kept));
    } catch {
      // Too long to keep: a reload starts anew.
    }
    find("#welcome").hidden = this.turns.length > 0;
    this.onChange();
  }

  add(data) {
    const turn = new Turn(data, this);
    this.turns.push(turn);
    find("#turns").append(turn.node);
    return turn;
  }

  clear() {
    this.stop();
    this.cut(0);
    announce("New conversation");
  }

  /** Drop turns from an index on. */
  cut(from) {
    for (const turn of this.turns.splice(from)) turn.node.remove();
    this.changed();
  }

  async send(text) {
    if (this.isBusy || !text.trim()) return;
    this.add({ role: "user", content: text });
    await this.ask();
  }

  /** Answer the last question again. */
  async regenerate() {
    if (this.isBusy || !this.turns.length) return;
    const last = this.turns.findLastIndex((turn) => turn.role === "user");
    if (last < 0) return;
    this.cut(last + 1);
    await this.ask();
  }

  editLast() {
    const last = this.turns.findLast((turn) => turn.role === "user");
    if (!this.isBusy) last?.edit();
  }

  async replace(turn, text) {
    this.cut(this.turns.indexOf(turn));
    await this.send(text);
  }

  stop() {
    this.controller?.abort();
  }

  body() {
    const told = this.turns.filter((turn) => turn.role === "user" || turn.content);
    return { model: this.model(), ...chatting(), messages: [...systemMessage(), ...told.map(({ role, content }) => ({ role, content }))] };
  }

  async ask() {
    const controller = (this.controller = new AbortController());
    const body = this.body();
    const turn = this.add({ role: "assistant", content: "", reasoning: "" });
    turn.begin();
    this.changed();
    follow(true);
    try {
      for await (const news of answer("v1/chat/completions", body, controller.signal)) turn.take(news);
      turn.end(null);
    } catch (error) {
      turn.end(error.name === "AbortError" ? "stopped" : error);
    }
    if (this.controller === controller) this.controller = null;
    this.changed();
  }
}

/** Keep the end in view while the reader is there. */
function follow(always = false) {
  const box = find("#scroller");
  if (always || box.scrollHeight - box.scrollTop - box.clientHeight < 120) box.scrollTop = box.scrollHeight;
}

class Turn {
  constructor({ role, content, reasoning = "", numbers = null, error = null }, conversation) {
    Object.assign(this, { role, content, reasoning, numbers, error, conversation });
    this.raw = content;
    this.text = el("div", { class: "text" });
    this.thoughts = el("div", { class: "text" });
    this.thinking = el("details", { class: "thinking", hidden: true }, el("summary", {}, "Thinking"), this.thoughts);
    this.foot = el("div", { class: "foot" });
    this.node = el(
      "article",
      { class: `turn ${role}`, "aria-label": role === "user" ? "You" : "Model" },
      role === "user" ? null : this.thinking,
      this.text,
      this.foot,
    );
    this.view = new MarkdownView(this.text);
    this.thoughtsView = new MarkdownView(this.thoughts);
    this.painter = new Painter(() => {
      this.split();
      this.draw();
      follow();
    });
    this.draw();
    this.drawFoot();
  }

  begin() {
    this.tally = new Tally();
    this.node.setAttribute("aria-busy", "true");
    this.node.classList.add("busy");
    this.raw = this.serverReasoning = "";
    this.foot.replaceChildren();
  }

  take(news) {
    const { text, reasoning, calls } = news;
    this.tally.take(news);
    this.raw += text;
    this.serverReasoning += reasoning;
    for (const call of calls) this.raw += call.function?.name ? `\n\`${call.function.name}\` ` : "";
    for (const call of calls) this.raw += call.function?.arguments ?? "";
    this.painter.ask();
  }

  split() {
    if (this.serverReasoning) {
      this.reasoning = this.serverReasoning;
      this.content = this.raw;
      this.isThinking = this.raw === "";
    } else Object.assign(this, splitThinking(this.raw));
  }

  end(problem) {
    this.painter.cancel();
    this.split();
    this.isThinking = false;
    this.node.removeAttribute("aria-busy");
    this.node.classList.remove("busy");
    this.numbers = this.tally.count(problem === "stopped");
    this.error = problem && problem !== "stopped" ? this.explain(problem) : null;
    this.draw();
    this.drawFoot();
    follow();
    announce(this.error ?? (problem === "stopped" ? "Stopped" : `Answer finished. ${this.content.slice(0, 300)}`));
  }

  explain(problem) {
    return `${problem.message}${problem.status === 401 ? " Enter it in the settings." : ""}`;
  }

  draw() {
    if (this.role === "user") {
      this.text.replaceChildren(el("p", { class: "plain" }, this.content));
      return;
    }
    this.view.show(this.content);
    this.thoughtsView.show(this.reasoning);
    this.thinking.hidden = !this.reasoning;
    if (this.isThinking) this.thinking.open = this.opened = true;
    else if (this.opened) this.thinking.open = this.opened = false;
    this.node.classList.toggle("waiting", this.node.classList.contains("busy") && !this.content && !this.reasoning);
  }

  drawFoot() {
    const act = (label, action) => el("button", { type: "button", class: "quiet", onclick: action }, label);
    const { conversation } = this;
    const whenIdle = (action) => () => conversation.isBusy || action();
    const parts = [];
    if (this.error) parts.push(el("p", { class: "error", role: "alert" }, this.error));
    if (this.role === "user") parts.push(act("Edit", whenIdle(() => this.edit())));
    else parts.push(act("Regenerate", whenIdle(() => this.regenerate())));
    parts.push(copyButton(() => this.content));
    if (this.numbers) parts.push(el("span", { class: "numbers" }, describe(this.numbers)));
    this.foot.replaceChildren(...parts);
  }

  async regenerate() {
    const { conversation } = this;
    conversation.cut(conversation.turns.indexOf(this));
    await conversation.regenerate();
  }

  /** Put a field in place of the text; sending it drops what followed. */
  edit() {
    const field = el("textarea", { class: "edit", "aria-label": "Edit your message", rows: "3" });
    field.value = this.content;
    const close = () => {
      this.draw();
      this.drawFoot();
      find("#prompt").focus();
    };
    const send = () => {
      if (field.value.trim()) this.conversation.replace(this, field.value);
      find("#prompt").focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        send();
      } else if (event.key === "Escape") {
        event.stopPropagation();
        close();
      }
    });
    const button = (label, action, kind) => el("button", { type: "button", class: kind, onclick: action }, label);
    this.text.replaceChildren(field);
    this.foot.replaceChildren(button("Send", send, "primary"), button("Cancel", close, "quiet"));
    field.focus();
  }
}
