// The conversation: its turns as data and as nodes, and the answer that is being streamed.

import { announce, copyButton, el, find, number } from "./dom.js";
import { MarkdownView } from "./markdown.js";
import { isChat, sampling, systemMessage } from "./settings.js";
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
    const own = { model: this.model(), ...sampling() };
    if (!isChat()) return { ...own, prompt: this.turns.map((turn) => turn.content).join("") };
    const told = this.turns.filter((turn) => turn.role === "user" || turn.content);
    return { ...own, messages: [...systemMessage(), ...told.map(({ role, content }) => ({ role, content }))] };
  }

  async ask() {
    const controller = (this.controller = new AbortController());
    const body = this.body();
    const turn = this.add({ role: "assistant", content: "", reasoning: "" });
    turn.begin();
    this.changed();
    follow(true);
    try {
      for await (const news of answer(isChat() ? "v1/chat/completions" : "v1/completions", body, controller.signal)) turn.take(news);
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
    this.draw();
    this.drawFoot();
  }

  begin() {
    Object.assign(this, { started: performance.now(), first: null, last: null, pieces: 0, usage: null, finish: null });
    this.node.setAttribute("aria-busy", "true");
    this.node.classList.add("busy");
    this.raw = this.serverReasoning = "";
    this.foot.replaceChildren();
  }

  take({ text, reasoning, calls, finish, usage }) {
    if (text || reasoning || calls.length) {
      this.last = performance.now();
      this.first ??= this.last;
      this.pieces += 1;
    }
    this.raw += text;
    this.serverReasoning += reasoning;
    for (const call of calls) this.raw += call.function?.name ? `\n\`${call.function.name}\` ` : "";
    for (const call of calls) this.raw += call.function?.arguments ?? "";
    this.finish = finish ?? this.finish;
    this.usage = usage ?? this.usage;
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.split();
      this.draw();
      follow();
    });
  }

  split() {
    if (this.serverReasoning || !isChat()) {
      this.reasoning = this.serverReasoning;
      this.content = this.raw;
      this.isThinking = this.serverReasoning !== "" && this.raw === "";
    } else Object.assign(this, splitThinking(this.raw));
  }

  end(problem) {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    this.split();
    this.isThinking = false;
    this.node.removeAttribute("aria-busy");
    this.node.classList.remove("busy");
    this.numbers = this.count(problem === "stopped");
    this.error = problem && problem !== "stopped" ? this.explain(problem) : null;
    this.draw();
    this.drawFoot();
    follow();
    announce(this.error ?? (problem === "stopped" ? "Stopped" : `Answer finished. ${this.content.slice(0, 300)}`));
  }

  explain(problem) {
    const hint = /no chat template/.test(problem.message) ? " Choose “Continue text” in the settings." : "";
    return `${problem.message}${problem.status === 401 ? " Enter it in the settings." : ""}${hint}`;
  }

  /** What the answer took; the server's counts where it told them. */
  count(isStopped) {
    const seconds = this.first === null ? 0 : (this.last - this.first) / 1000;
    const tokens = this.usage?.completion_tokens ?? this.pieces;
    return {
      prompt: this.usage?.prompt_tokens ?? null,
      cached: this.usage?.prompt_tokens_details?.cached_tokens ?? 0,
      drafts: this.usage?.completion_tokens_details?.accepted_prediction_tokens ?? 0,
      tokens,
      firstSeconds: this.first === null ? null : (this.first - this.started) / 1000,
      perSecond: seconds > 0 && tokens > 1 ? (tokens - 1) / seconds : null,
      ending: isStopped ? "stopped" : this.finish === "length" ? "length limit" : null,
    };
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

function describe({ prompt, cached, drafts, tokens, firstSeconds, perSecond, ending }) {
  const parts = [];
  if (prompt !== null) parts.push(`${number(prompt)} prompt tokens` + (cached ? `, ${number(cached)} cached` : ""));
  parts.push(`${number(tokens)} tokens` + (drafts ? `, ${number(drafts)} by right drafts` : ""));
  if (perSecond !== null) parts.push(`${number(perSecond, 1)} tokens/s`);
  if (firstSeconds !== null) parts.push(`first after ${number(firstSeconds, 2)} s`);
  if (ending) parts.push(ending);
  return parts.join(" · ");
}
