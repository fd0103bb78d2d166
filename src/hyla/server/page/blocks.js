// Blocks of Markdown. Every line is looked at a bounded number of times, and no pattern here can be read in two ways:
// a text may hold anything, so reading it takes time in proportion to its length.

const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const HEADING = /^ {0,3}(#{1,6})(?=\s)/;
const QUOTE = /^ {0,3}> ?/;
const MARK = /^(?:[-*+]|\d{1,9}[.)])(?=\s)/;
const ALIGNED = /^:?-+:?$/;

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
  const fence = fenceOf(line);
  if (fence) return readFence(lines, start, fence);
  const heading = headingOf(line);
  if (heading) return { kind: "heading", ...heading, taken: 1, source: line };
  if (isRule(line)) return { kind: "rule", taken: 1, source: line };
  if (QUOTE.test(line)) {
    const own = readWhile(lines, start, (each) => each.trim());
    return block("quote", own, { text: own.map((each) => each.replace(QUOTE, "")).join("\n") });
  }
  if (itemOf(line)) return readList(lines, start);
  if (line.includes("|") && isTableLine(lines[start + 1] ?? "")) {
    return block("table", readWhile(lines, start, (each) => each.includes("|")));
  }
  const own = readWhile(lines, start, (each, n) => each.trim() && (n === start || !startsBlock(each)));
  return block("paragraph", own, { text: own.join("\n") });
}

const block = (kind, own, more = {}) => ({ kind, lines: own, taken: own.length, source: own.join("\n"), ...more });

const startsBlock = (line) => Boolean(fenceOf(line) || headingOf(line) || QUOTE.test(line) || itemOf(line) || isRule(line));

/** The fence that a line opens: {mark, language}. */
function fenceOf(line) {
  const found = FENCE.exec(line);
  if (!found) return null;
  const rest = line.slice(found[0].length);
  return rest.includes("`") ? null : { mark: found[1], language: rest.trim().split(/\s/, 1)[0] };
}

/** The heading that a line is: {level, text}, without the marks that may close it. */
function headingOf(line) {
  const found = HEADING.exec(line);
  if (!found) return null;
  const text = line.slice(found[0].length).trim();
  let end = text.length;
  while (end > 0 && text[end - 1] === "#") end -= 1;
  const isClosed = end === 0 || text[end - 1].trim() === "";
  return { level: found[1].length, text: isClosed ? text.slice(0, end).trimEnd() : text };
}

function isRule(line) {
  const mark = line.trimStart()[0];
  if (!"-*_".includes(mark ?? " ") || indentOf(line) > 3) return false;
  let count = 0;
  for (const each of line) {
    if (each === mark) count += 1;
    else if (each.trim()) return false;
  }
  return count > 2;
}

function isTableLine(line) {
  if (!line.includes("|")) return false;
  const cells = cellsOf(line);
  return cells.every((cell) => ALIGNED.test(cell));
}

/** The cells of a table's line. */
export function cellsOf(line) {
  const own = line.trim();
  const start = own.startsWith("|") ? 1 : 0;
  const end = own.length > start && own.endsWith("|") ? own.length - 1 : own.length;
  return own.slice(start, end).split("|").map((cell) => cell.trim());
}

const indentOf = (line) => line.length - line.trimStart().length;

/** The list item that a line begins: {indent, mark, text}. */
function itemOf(line) {
  const own = line.trimStart();
  const found = MARK.exec(own);
  if (!found) return null;
  return { indent: line.length - own.length, mark: found[0], text: own.slice(found[0].length).trimStart() };
}

function readWhile(lines, start, goesOn) {
  let end = start;
  while (end < lines.length && goesOn(lines[end], end)) end += 1;
  return lines.slice(start, Math.max(end, start + 1));
}

function readFence(lines, start, { mark, language }) {
  let end = start + 1;
  while (end < lines.length && !closes(lines[end], mark)) end += 1;
  const taken = Math.min(end + 1, lines.length) - start;
  const code = lines.slice(start + 1, end).join("\n");
  return { kind: "code", language, code, taken, source: lines.slice(start, start + taken).join("\n") };
}

function closes(line, mark) {
  const own = line.trim();
  if (own.length < mark.length || indentOf(line) > 3) return false;
  for (const each of own) if (each !== mark[0]) return false;
  return true;
}

/** Lines of one list: items, what is indented below them, and blank lines between. */
function readList(lines, start) {
  const first = itemOf(lines[start]);
  const isOrdered = isNumber(first.mark);
  const items = [];
  let at = start;
  while (at < lines.length) {
    const line = lines[at];
    const found = itemOf(line);
    if (found && found.indent <= first.indent + 1) {
      if (isNumber(found.mark) !== isOrdered) break;
      items.push({ first: found.text, offset: line.length - found.text.length, rest: [] });
    } else if (!line.trim()) {
      const next = lines[at + 1] ?? "";
      if (!next.trim() || (!itemOf(next) && indentOf(next) < 2)) break;
      items.at(-1).rest.push("");
    } else if (indentOf(line) > 1) items.at(-1).rest.push(line);
    else if (!startsBlock(line) && lines[at - 1]?.trim()) items.at(-1).rest.push(line);
    else break;
    at += 1;
  }
  return { ...block("list", lines.slice(start, at)), isOrdered, from: parseInt(first.mark, 10), items };
}

const isNumber = (mark) => mark.length > 1;

/** A line without its first white space, so much at most. */
export const dedented = (line, most) => line.slice(Math.min(indentOf(line), most));
