// Markdown to DOM nodes. Model output is only ever text nodes: there is no way from it to a tag, a style or a script.

import { blocksOf, cellsOf, dedented } from "./blocks.js";
import { copyButton, el } from "./dom.js";
import { inline } from "./inline.js";

const MOST_DEPTH = 12;

/** The node of one block. */
export function nodeOf(own, depth = 0) {
  if (depth > MOST_DEPTH) return el("p", {}, own.source);
  if (own.kind === "code") return codeNode(own.code, own.language);
  if (own.kind === "heading") return el(`h${Math.min(own.level + 2, 6)}`, {}, inline(own.text));
  if (own.kind === "rule") return el("hr");
  if (own.kind === "quote") return el("blockquote", {}, nodesOf(own.text, depth + 1));
  if (own.kind === "list") return listNode(own, depth);
  if (own.kind === "table") return tableNode(own.lines);
  return el("p", {}, inline(own.text));
}

export const nodesOf = (text, depth = 0) => blocksOf(text).map((own) => nodeOf(own, depth));

function listNode({ isOrdered, from, items }, depth) {
  const list = el(isOrdered ? "ol" : "ul", isOrdered && from !== 1 ? { start: String(from) } : {});
  for (const { first, offset, rest } of items) {
    const [head, ...others] = blocksOf([first, ...rest.map((line) => dedented(line, offset))].join("\n"));
    const own = head?.kind === "paragraph" ? inline(head.text) : head ? [nodeOf(head, depth + 1)] : [];
    list.append(el("li", {}, own, others.map((each) => nodeOf(each, depth + 1))));
  }
  return list;
}

function tableNode(lines) {
  const [head, align, ...rows] = lines.map(cellsOf);
  const sides = align.map((cell) => (/^:-+:$/.test(cell) ? "center" : /-:$/.test(cell) ? "right" : "left"));
  const row = (tag, own) => el("tr", {}, own.map((cell, n) => el(tag, { class: sides[n] }, inline(cell))));
  const table = el("table", {}, el("thead", {}, row("th", head)), el("tbody", {}, rows.map((own) => row("td", own))));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" }, table);
}

function codeNode(code, language) {
  const head = el("div", { class: "code-head" }, el("span", {}, language || "code"), copyButton(() => code));
  const body = el("pre", { tabindex: "0" }, el("code", {}, colored(code, language)));
  return el("figure", { class: "code", "aria-label": `Code${language ? `, ${language}` : ""}` }, head, body);
}

const KEYWORDS = new Set(
  ("and as assert async await bool break case catch class const continue def default del do double elif else enum " +
    "except export extends false False finally float fn for from func function global if impl import in int interface " +
    "is lambda let long match mod mut new nil None nonlocal not null or package pass private protected pub public raise " +
    "return self static str string struct super switch this throw true True try type typeof undefined unsafe use var " +
    "void while with yield SELECT FROM WHERE INSERT UPDATE DELETE JOIN GROUP ORDER BY LIMIT AND OR NOT NULL").split(" "),
);
const HASH_COMMENTS = /^(py|python|sh|bash|shell|zsh|rb|ruby|yaml|yml|toml|r|make|makefile|dockerfile|perl|conf|ini|)$/i;
const STRINGS = String.raw`"""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$)|"[^"\\\n]*(?:\\.[^"\\\n]*)*"?|'[^'\\\n]*(?:\\.[^'\\\n]*)*'?`;
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
