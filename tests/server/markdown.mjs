// Reads Markdown as the page does, with stand-ins for a browser's nodes. Standard input: a list of texts as JSON; standard
// output: what each became, as JSON. Arguments: the folder of the page's modules; "count" tells how many nodes only.

class Node {
  constructor(tag) {
    this.tag = tag;
    this.attributes = {};
    this.childNodes = [];
  }
  append(...children) {
    this.childNodes.push(...children);
  }
  setAttribute(name, value) {
    this.attributes[name] = value;
  }
  addEventListener() {}
}

globalThis.document = { createElement: (tag) => new Node(tag), querySelector: () => null };
const SHOWN = ["href", "start", "class"];

function outline(node) {
  if (typeof node === "string") return node;
  const told = SHOWN.filter((name) => node.attributes[name]).map((name) => ` ${name}=${node.attributes[name]}`);
  return `<${node.tag}${told.join("")}>${node.childNodes.map(outline).join("")}</>`;
}

function count(node) {
  if (typeof node === "string") return 1;
  return node.childNodes.reduce((sum, child) => sum + count(child), 1);
}

let given = "";
for await (const chunk of process.stdin) given += chunk;
const { nodesOf } = await import(`${process.argv[2]}/markdown.js`);
const tell = process.argv[3] === "count" ? count : outline;
const told = JSON.parse(given).map((text) => nodesOf(text).map(tell));
process.stdout.write(JSON.stringify(told));
