// What stands in a line of Markdown: emphasis, code, links. Read from left to right; where a span may end is looked up in
// lists made once, so that a text full of beginnings costs no more than any other.

import { el } from "./dom.js";

const MOST_DEPTH = 12;
const LONGEST_SPAN = 4000;
const SPECIAL = /[\\`*_[!<~]| {2}|https?:\/\//g;
const ESCAPED = "\\`*_{}[]()#+-.!~|<>\"";
const AFTER_ADDRESS = ".,;:!?)]*_";

const isSpace = (char) => char === undefined || char.trim() === "";
const isWord = (char) => char !== undefined && /\w/.test(char);

/** Inline nodes of a text. */
export function inline(text, depth = 0) {
  if (depth > MOST_DEPTH) return [text];
  const places = new Places(text);
  const nodes = [];
  let plain = "";
  let at = 0;
  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const next = SPECIAL.exec(text)?.index ?? text.length;
    plain += text.slice(at, next);
    at = next;
    if (at >= text.length) break;
    const { node, end } = spanAt(text, at, depth, places);
    if (node === null) plain += text.slice(at, end);
    else {
      if (plain) nodes.push(plain);
      plain = "";
      nodes.push(node);
    }
    at = end;
  }
  return plain ? [...nodes, plain] : nodes;
}

const none = (end) => ({ node: null, end });

function spanAt(text, at, depth, places) {
  const char = text[at];
  const inner = (start, end) => inline(text.slice(start, end), depth + 1);
  if (char === "\\") return escaped(text, at);
  if (char === " ") return spaces(text, at);
  if (char === "`") return code(text, at, places);
  if (char === "[" || char === "!") return linkAt(text, at, inner, places);
  if (char === "<" || char === "h") return addressAt(text, at);
  for (const [tag, mark] of MARKS) {
    if (!text.startsWith(mark, at) || (char === "_" && isWord(text[at - 1]))) continue;
    const end = places.close(mark, at);
    if (end > 0) return { node: el(tag, {}, inner(at + mark.length, end)), end: end + mark.length };
  }
  return none(at + 1);
}

function escaped(text, at) {
  const next = text[at + 1];
  if (next === "\n") return { node: el("br"), end: at + 2 };
  return next !== undefined && ESCAPED.includes(next) ? { node: next, end: at + 2 } : none(at + 1);
}

/** Two spaces or more; before a line's end they break it. */
function spaces(text, at) {
  let end = at;
  while (text[end] === " ") end += 1;
  return text[end] === "\n" ? { node: el("br"), end: end + 1 } : none(end);
}

function code(text, at, places) {
  const start = places.runEnd(at);
  const close = places.sameRun(start, start - at);
  if (close < 0 || close - at > LONGEST_SPAN) return none(at + 1);
  const own = text.slice(start, close);
  const isPadded = own.length > 2 && own.startsWith(" ") && own.endsWith(" ");
  return { node: el("code", {}, isPadded ? own.slice(1, -1) : own), end: close + start - at };
}

/** [text](address "title"), or the same after "!", which is shown as a link: no picture is loaded. */
function linkAt(text, at, inner, places) {
  const open = text[at] === "!" ? at + 1 : at;
  const close = text[open] === "[" ? places.bracketEnd(open) : -1;
  if (close < 0 || text[close + 1] !== "(" || close - at > LONGEST_SPAN) return none(at + 1);
  const address = addressEnd(text, close + 2);
  const end = closeOf(text, address);
  if (end < 0) return none(at + 1);
  const children = open > at ? [text.slice(open + 1, close) || "image"] : inner(open + 1, close);
  if (open === at && close === open + 1) return none(at + 1);
  return { node: link(text.slice(close + 2, address), children), end };
}

/** Where an address ends that may hold one pair of parentheses in another. */
function addressEnd(text, start) {
  const most = Math.min(text.length, start + LONGEST_SPAN);
  let isInside = false;
  let at = start;
  for (; at < most && !isSpace(text[at]); at += 1) {
    if (text[at] === "(") {
      if (isInside) break;
      isInside = true;
    } else if (text[at] === ")") {
      if (!isInside) break;
      isInside = false;
    }
  }
  return isInside ? start : at;
}

/** Behind the parenthesis that closes a link, after a title if there is one; -1 without. */
function closeOf(text, address) {
  if (text[address] === ")") return address + 1;
  let at = address;
  const most = Math.min(text.length, address + LONGEST_SPAN);
  while (at < most && isSpace(text[at])) at += 1;
  if (at === address || text[at] !== '"') return -1;
  at += 1;
  while (at < most && text[at] !== '"') at += 1;
  return text[at] === '"' && text[at + 1] === ")" ? at + 2 : -1;
}

/** An address as it stands, or in angle brackets. */
function addressAt(text, at) {
  const isQuoted = text[at] === "<";
  const start = isQuoted ? at + 1 : at;
  if (!["https://", "http://", ...(isQuoted ? ["mailto:"] : [])].some((own) => text.startsWith(own, start))) {
    return none(at + 1);
  }
  const others = isQuoted ? "<>" : "<>\"'`";
  const most = Math.min(text.length, start + LONGEST_SPAN);
  let end = start;
  while (end < most && !isSpace(text[end]) && !others.includes(text[end])) end += 1;
  if (isQuoted) {
    const own = text.slice(start, end);
    return text[end] === ">" ? { node: link(own, [own]), end: end + 1 } : none(at + 1);
  }
  while (end > start && AFTER_ADDRESS.includes(text[end - 1])) end -= 1;
  const own = text.slice(start, end);
  return own.endsWith("//") ? none(start + own.length) : { node: link(own, [own]), end };
}

const MARKS = [["strong", "**"], ["strong", "__"], ["s", "~~"], ["em", "*"], ["em", "_"]];

/** May a span of this mark begin with, end after, or end before these characters? */
const RULES = {
  "*": { first: (char) => char !== "*", last: (char) => char !== "*", next: (char) => char !== "*" },
  _: { first: (char) => char !== "_", last: (char) => char !== "_", next: (char) => !isWord(char) },
};
const ANY = { first: () => true, last: () => true, next: () => true };

/** Where things may end in one text, each list made when it is first asked for. */
class Places {
  constructor(text) {
    this.text = text;
    this.closes = {};
  }

  /** The end of a span of `mark` that begins here; -1 for none. */
  close(mark, at) {
    const { first } = RULES[mark] ?? ANY;
    const start = at + mark.length;
    if (isSpace(this.text[start]) || !first(this.text[start])) return -1;
    this.closes[mark] ??= this.closesOf(mark);
    const found = firstFrom(this.closes[mark], start + 1);
    return found !== undefined && found - at <= LONGEST_SPAN ? found : -1;
  }

  closesOf(mark) {
    const { last, next } = RULES[mark] ?? ANY;
    const { text } = this;
    const found = [];
    for (let at = text.indexOf(mark, 1); at > 0; at = text.indexOf(mark, at + 1)) {
      const before = text[at - 1];
      if (!isSpace(before) && last(before) && next(text[at + mark.length])) found.push(at);
    }
    return found;
  }

  /** Runs of backticks: where each ends, and where those of each length begin. */
  get runs() {
    if (this.ticks) return this.ticks;
    const ends = new Map();
    const starts = new Map();
    for (const { 0: run, index } of this.text.matchAll(/`+/g)) {
      ends.set(index + run.length, index);
      if (!starts.has(run.length)) starts.set(run.length, []);
      starts.get(run.length).push(index);
    }
    this.ticks = { ends: [...ends.keys()], starts };
    return this.ticks;
  }

  runEnd(at) {
    return firstFrom(this.runs.ends, at + 1);
  }

  sameRun(from, length) {
    return firstFrom(this.runs.starts.get(length) ?? [], from) ?? -1;
  }

  /** The bracket that closes the one here; -1 for none. */
  bracketEnd(at) {
    this.brackets ??= this.bracketPairs();
    return this.brackets.get(at) ?? -1;
  }

  bracketPairs() {
    const pairs = new Map();
    const open = [];
    for (const { 0: char, index } of this.text.matchAll(/[[\]]/g)) {
      if (char === "[") open.push(index);
      else if (open.length) pairs.set(open.pop(), index);
    }
    return pairs;
  }
}

/** The first number of a sorted list that is not below another. */
function firstFrom(list, least) {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] < least) low = middle + 1;
    else high = middle;
  }
  return list[low];
}

/** A link that leads out of the page; addresses of any other kind are shown as they are. */
function link(address, children) {
  let url;
  try {
    url = new URL(address);
  } catch {
    return el("span", {}, children, ` (${address})`);
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return el("span", {}, children, ` (${address})`);
  return el("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow" }, children);
}
