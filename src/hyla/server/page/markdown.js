// Markdown to DOM nodes. Model output is only ever text nodes: there is no way from it to a tag, a style or a script.

import { copyButton, el } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^ {0,3}> ?/;
const TABLE_LINE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const MOST_DEPTH = 12;

/** Top-level blocks as source: each is {kind, lines, ...}. A block that is complete does not change as text is added. */
export function blocksOf(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    if (!line.trim()) at += 1;
    else {
      const block = readBlock(lines, at);
      blocks.push(block);
      at += block.taken;
    }
  }
  return blocks;
}

function readBlock(lines, start) {
  const line = lines[start];
  const fence = FENCE.exec(line);
  if (fence) return readFence(lines, start, fence);
  const heading = HEADING.exec(line);
  if (heading) return { kind: "heading", level: heading[1].length, text: heading[2], taken: 1, source: line };
  if (RULE.test(line)) return { kind: "rule", taken: 1, source: line };
  if (QUOTE.test(line)) {
    const own = readWhile(lines, start, (each) => each.trim());
    return block("quote", own, { text: own.map((each) => each.replace(QUOTE, "")).join("\n") });
  }
  if (ITEM.test(line)) return readList(lines, start);
  const next = lines[start + 1] ?? "";
  if (line.includes("|") && next.includes("|") && TABLE_LINE.test(next)) {
    return block("table", readWhile(lines, start, (each) => each.includes("|")));
  }
  const own = readWhile(lines, start, (each, n) => each.trim() && (n === start || !startsBlock(each)));
  return block("paragraph", own, { text: own.join("\n") });
}

const block = (kind, own, more = {}) => ({ kind, lines: own, taken: own.length, source: own.join("\n"), ...more });

const startsBlock = (line) => [FENCE, HEADING, RULE, QUOTE, ITEM].some((pattern) => pattern.test(line));

function readWhile(lines, start, goesOn) {
  let end = start;
  while (end < lines.length && goesOn(lines[end], end)) end += 1;
  return lines.slice(start, Math.max(end, start + 1));
}

function readFence(lines, start, [, mark, language]) {
  const close = new RegExp(`^ {0,3}${mark[0]}{${mark.length},}\\s*$`);
  let end = start + 1;
  while (end < lines.length && !close.test(lines[end])) end += 1;
  const taken = Math.min(end + 1, lines.length) - start;
  const code = lines.slice(start + 1, end).join("\n");
  return { kind: "code", language, code, taken, source: lines.slice(start, start + taken).join("\n") };
}

/** Lines of one list: items, what is indented below them, and blank lines between. */
function readList(lines, start) {
  const indent = ITEM.exec(lines[start])[1].length;
  const isOrdered = /\d/.test(ITEM.exec(lines[start])[2]);
  const items = [];
  let at = start;
  while (at < lines.length) {
    const found = ITEM.exec(lines[at]);
    if (found && found[1].length <= indent + 1) {
      if (/\d/.test(found[2]) !== isOrdered) break;
      items.push({ first: found[3], offset: lines[at].length - found[3].length, rest: [] });
    } else if (!lines[at].trim()) {
      const next = lines[at + 1] ?? "";
      if (!ITEM.test(next) && !/^\s{2,}\S/.test(next)) break;
      items.at(-1).rest.push("");
    } else if (/^\s{2,}/.test(lines[at])) items.at(-1).rest.push(lines[at]);
    else if (!startsBlock(lines[at]) && lines[at - 1]?.trim()) items.at(-1).rest.push(lines[at]);
    else break;
    at += 1;
  }
  const from = parseInt(ITEM.exec(lines[start])[2], 10);
  return { ...block("list", lines.slice(start, at)), isOrdered, from, items };
}

/** The node of one block. */
export function nodeOf(own, depth = 0) {
  if (depth > MOST_DEPTH) return el("p", {}, own.source);
  if (own.kind === "code") return codeNode(own.code, own.language);
  if (own.kind === "heading") return el(`h${Math.min(own.level + 2, 6)}`, {}, ...inline(own.text));
  if (own.kind === "rule") return el("hr");
  if (own.kind === "quote") return el("blockquote", {}, ...nodesOf(own.text, depth + 1));
  if (own.kind === "list") return listNode(own, depth);
  if (own.kind === "table") return tableNode(own.lines);
  return el("p", {}, ...inline(own.text));
}

export const nodesOf = (text, depth = 0) => blocksOf(text).map((own) => nodeOf(own, depth));

function listNode({ isOrdered, from, items }, depth) {
  const list = el(isOrdered ? "ol" : "ul", isOrdered && from !== 1 ? { start: String(from) } : {});
  for (const { first, offset, rest } of items) {
    const dedented = rest.map((line) => line.replace(new RegExp(`^\\s{0,${offset}}`), ""));
    const [head, ...others] = blocksOf([first, ...dedented].join("\n"));
    const own = head?.kind === "paragraph" ? inline(head.text) : head ? [nodeOf(head, depth + 1)] : [];
    list.append(el("li", {}, ...own, ...others.map((each) => nodeOf(each, depth + 1))));
  }
  return list;
}

function tableNode(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const [head, align, ...rows] = lines.map(cells);
  const sides = align.map((cell) => (/^:-+:$/.test(cell) ? "center" : /-:$/.test(cell) ? "right" : "left"));
  const row = (tag, own) => el("tr", {}, ...own.map((cell, n) => el(tag, { class: sides[n] }, ...inline(cell))));
  const table = el("table", {}, el("thead", {}, row("th", head)), el("tbody", {}, ...rows.map((own) => row("td", own))));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" }, table);
}

function codeNode(code, language) {
  const head = el("div", { class: "code-head" }, el("span", {}, language || "code"), copyButton(() => code));
  const body = el("pre", { tabindex: "0" }, el("code", {}, ...colored(code, language)));
  return el("figure", { class: "code", "aria-label": `Code${language ? `, ${language}` : ""}` }, head, body);
}

const INLINE = [
  [/^\\([\\`*_{}[\]()#+\-.!~|<>"])/, (found) => found[1]],
  [/^(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)/, (found) => el("code", {}, found[2].replace(/^ (.+) $/s, "$1"))],
  [/^!\[([^\]]*)\]\(([^\s)]+)[^)]*\)/, (found) => link(found[2], [found[1] || "image"])],
  [/^\[((?:[^[\]]|\[[^\]]*\])+)\]\(([^\s()]*(?:\([^\s()]*\)[^\s()]*)*)(?:\s+"[^"]*")?\)/,
    (found, depth) => link(found[2], inline(found[1], depth + 1))],
  [/^<(https?:\/\/[^\s<>]+|mailto:[^\s<>]+)>/, (found) => link(found[1], [found[1]])],
  [/^https?:\/\/[^\s<>"'`]*[^\s<>"'`.,;:!?)\]*_]/, (found) => link(found[0], [found[0]])],
  [/^(\*\*|__)(?=\S)([\s\S]*?\S)\1/, (found, depth) => el("strong", {}, ...inline(found[2], depth + 1))],
  [/^~~(?=\S)([\s\S]*?\S)~~/, (found, depth) => el("s", {}, ...inline(found[1], depth + 1))],
  [/^\*(?![\s*])([\s\S]*?[^\s*])\*(?!\*)/, (found, depth) => el("em", {}, ...inline(found[1], depth + 1))],
  [/^_(?![\s_])([\s\S]*?[^\s_])_(?![\w_])/, (found, depth) => el("em", {}, ...inline(found[1], depth + 1))],
  [/^(?: {2,}|\\)\n/, () => el("br")],
];
const SPECIAL = /[\\`*_[!<~ ]|https?:\/\//g;

/** Inline nodes of a text. */
export function inline(text, depth = 0) {
  if (depth > MOST_DEPTH) return [text];
  const nodes = [];
  let plain = "";
  let at = 0;
  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const next = SPECIAL.exec(text)?.index ?? text.length;
    plain += text.slice(at, next);
    at = next;
    if (at >= text.length) break;
    const [node, length] = match(text, at, depth);
    if (node === null) plain += text[at];
    else {
      if (plain) nodes.push(plain);
      plain = "";
      nodes.push(node);
    }
    at += length;
  }
  return plain ? [...nodes, plain] : nodes;
}

const LONGEST_SPAN = 4000;

function match(text, at, depth) {
  const isInWord = at > 0 && /\w/.test(text[at - 1]);
  const rest = text.slice(at, at + LONGEST_SPAN);
  for (const [pattern, make] of INLINE) {
    if (isInWord && text[at] === "_") break;
    const found = pattern.exec(rest);
    if (found) return [make(found, depth), found[0].length];
  }
  return [null, 1];
}

/** A link that leads out of the page; addresses of any other kind are shown as they are. */
function link(address, children) {
  let url;
  try {
    url = new URL(address);
  } catch {
    return el("span", {}, ...children, ` (${address})`);
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return el("span", {}, ...children, ` (${address})`);
  return el("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children);
}

const KEYWORDS = new Set(
  ("and as assert async await bool break case catch class const continue def default del do double elif else enum " +
    "except export extends false False finally float fn for from func function global if impl import in int interface " +
    "is lambda let long match mod mut new nil None nonlocal not null or package pass private protected pub public raise " +
    "return self static str string struct super switch this throw true True try type typeof undefined unsafe use var " +
    "void while with yield SELECT FROM WHERE INSERT UPDATE DELETE JOIN GROUP ORDER BY LIMIT AND OR NOT NULL").split(" "),
);
const HASH_COMMENTS = /^(py|python|sh|bash|shell|zsh|rb|ruby|yaml|yml|toml|r|make|makefile|dockerfile|perl|conf|ini|)$/i;
const STRINGS = String.raw`"""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?`;
const WORDS = String.raw`\b\d[\w.]*|[A-Za-z_]\w*`;

/** Code as coloured spans: comments, strings, numbers, keywords; enough to read by. */
function colored(code, language) {
  if (/^(text|txt|plain|output|console|diff|md|markdown|html|xml|svg)$/i.test(language)) return [code];
  const comments = HASH_COMMENTS.test(language) ? String.raw`#[^\n]*` : String.raw`//[^\n]*|/\*[\s\S]*?(?:\*/|$)`;
  const pattern = new RegExp(`(${comments})|(${STRINGS})|(${WORDS})`, "g");
  const nodes = [];
  let at = 0;
  for (const found of code.matchAll(pattern)) {
    const [text, comment, string] = found;
    const kind = comment ? "comment" : string ? "string" : /^\d/.test(text) ? "number" : KEYWORDS.has(text) ? "keyword" : "";
    if (!kind) continue;
    nodes.push(code.slice(at, found.index), el("span", { class: `tok-${kind}` }, text));
    at = found.index + text.length;
  }
  return [...nodes, code.slice(at)];
}

/** Shows a growing text; only blocks that changed are drawn again. */
export class MarkdownView {
  constructor(node) {
    this.node = node;
    this.sources = [];
  }

  show(text) {
    const blocks = blocksOf(text);
    let same = 0;
    while (same < blocks.length && blocks[same].source === this.sources[same]) same += 1;
    while (this.node.childNodes.length > same) this.node.lastChild.remove();
    for (const own of blocks.slice(same)) this.node.append(nodeOf(own));
    this.sources = blocks.map((own) => own.source);
  }
}
