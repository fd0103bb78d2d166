// Building elements: text is always text. Nothing on this page turns a string into HTML.

/** An element with attributes, listeners (`onclick: f`) and children (nodes, strings, lists of them; null is left out). */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  // One by one: a call takes only so many arguments, and an answer may have more parts.
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
  return node;
}

export const find = (selector) => document.querySelector(selector);

/** Put text on the clipboard; without permission (plain http on another machine), through a selection. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea", { "aria-hidden": "true", class: "unseen" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

/** A button that copies what `text()` gives and says so for a moment. */
export function copyButton(text, label = "Copy") {
  const button = el("button", { type: "button", class: "quiet" }, label);
  button.addEventListener("click", async () => {
    await copyText(text());
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = label), 1200);
  });
  return button;
}

const RESTS = 4;

/** Draws when asked to: at most once a frame, and after a draw it rests some times as long as that took, so that a text that
 * grows long does not keep the tab busy. */
export class Painter {
  constructor(draw) {
    this.draw = draw;
    this.rest = 0;
    this.timer = this.frame = null;
  }

  ask() {
    this.timer ??= setTimeout(() => {
      this.frame = requestAnimationFrame(() => {
        this.timer = null;
        const start = performance.now();
        this.draw();
        this.rest = RESTS * (performance.now() - start);
      });
    }, this.rest);
  }

  cancel() {
    clearTimeout(this.timer);
    cancelAnimationFrame(this.frame);
    this.timer = null;
  }
}

/** Tell a screen reader, without moving anything. */
export function announce(text) {
  find("#announcer").textContent = text;
}

export const number = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
