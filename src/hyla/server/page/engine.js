// The live view of the engine: asks for its numbers once a second while somebody looks.

import { el, find, number } from "./dom.js";
import { request } from "./stream.js";

const EVERY_MILLISECONDS = 1000;
const HISTORY = 60;
const SVG = "http://www.w3.org/2000/svg";
const REASONS = {
  off: "cache off",
  too_short: "prompt under 64 tokens",
  no_prefix: "never seen",
  no_snapshot: "no state kept there",
  evicted: "evicted",
};

export class EngineView {
  constructor(model) {
    this.model = model;
    this.isOpen = false;
    this.history = new Map();
    this.timer = null;
    document.addEventListener("visibilitychange", () => this.look());
  }

  open(isOpen) {
    this.isOpen = isOpen;
    this.look();
  }

  look() {
    clearTimeout(this.timer);
    this.timer = null;
    if (this.isOpen && !document.hidden) this.poll();
  }

  async poll() {
    const ticket = (this.ticket = {});
    try {
      const told = await (await request("engine/status")).json();
      if (this.ticket === ticket) this.show(told.models);
    } catch (error) {
      find("#engine-body").replaceChildren(el("p", { class: "error" }, error.message));
    }
    if (this.ticket === ticket && this.isOpen && !document.hidden) {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.poll(), EVERY_MILLISECONDS);
    }
  }

  show(models) {
    for (const [name, status] of Object.entries(models)) this.remember(name, status);
    const name = this.model() in models ? this.model() : Object.keys(models)[0];
    find("#engine-body").replaceChildren(...this.sections(name, models[name]));
  }

  remember(name, status) {
    const own = this.history.get(name) ?? { generated: [], prompt: [] };
    this.history.set(name, own);
    for (const kind of ["generated", "prompt"]) {
      own[kind].push(status[`${kind}_tokens_per_second`]);
      if (own[kind].length > HISTORY) own[kind].shift();
    }
  }

  sections(name, status) {
    const history = this.history.get(name);
    const { waiting, ledger, prefix_cache: prefix, speculation } = status;
    const caught = speculation.drafted ? speculation.accepted / speculation.drafted : null;
    return [
      el("p", { class: "engine-name" }, el("strong", {}, name), " ", el("span", { class: `badge ${status.state}` }, status.state)),
      speed("Tokens out", status.generated_tokens_per_second, history.generated),
      speed("Tokens in", status.prompt_tokens_per_second, history.prompt),
      section("Work", [
        ["Running", `${number(status.running)} of ${number(status.max_num_sequences)}`],
        ["Queue", `${number(waiting.requests)} requests, ${number(waiting.tokens)} tokens`],
        ["Unfinished", `${number(status.unfinished_requests)} requests`],
        ["Steps", number(status.steps)],
        ["Preemptions", number(status.preemptions)],
      ]),
      el("section", {}, el("h3", {}, `Caches, ${bytes(status.cache_bytes)}`), ...Object.entries(ledger).map(units), legend()),
      prefix ? this.prefix(prefix) : section("Prefix tree", [["State", "off"]]),
      section("Drafts", [
        ["From", speculation.kind],
        ["Proposed", number(speculation.drafted)],
        ["Accepted", number(speculation.accepted) + (caught === null ? "" : ` (${number(100 * caught, 0)}%)`)],
      ]),
      ...lengths(speculation.accepted_lengths),
      section("Model", [
        ["Context", `${number(status.context_len)} tokens`],
        ["Weights version", number(status.weights_version)],
        ...(status.worker?.restarts ? [["Restarts", number(status.worker.restarts)], ["Last end", status.worker.last_end]] : []),
      ]),
      ...status.notes.map((note) => el("p", { class: "note" }, note)),
    ];
  }

  prefix(prefix) {
    const misses = Object.entries(REASONS).map(([name, text]) => [text, prefix[`miss_${name}`] ?? 0]);
    const missed = misses.reduce((total, [, count]) => total + count, 0);
    const lookups = prefix.lookups ?? 0;
    return section("Prefix tree", [
      ["Lookups", number(lookups)],
      ["Hits", number(lookups - missed) + (lookups ? ` (${number((100 * (lookups - missed)) / lookups)}%)` : "")],
      ["Cached tokens used", number(prefix.hit_tokens ?? 0)],
      ...misses.filter(([, count]) => count).map(([text, count]) => [`Missed: ${text}`, number(count)]),
      ["Kept", `${number(prefix.nodes)} pages, ${number(prefix.checkpoints)} states`],
      ["Evicted", `${number(prefix.evicted_pages ?? 0)} pages, ${number(prefix.evicted_checkpoints ?? 0)} states`],
    ]);
  }
}

function section(title, rows) {
  const list = el("dl", {}, ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  return el("section", {}, el("h3", {}, title), list);
}

/* How many drafts of a verification were right. */
function lengths(counts) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  const most = Math.max(...counts);
  return counts.map((count, length) => {
    if (!count) return "";
    const share = `${number((100 * count) / total, 0)}%`;
    const bar = el("div", { class: "bar", role: "img", "aria-label": `${length} right: ${share} of ${number(total)} verifications` });
    const part = el("span", { class: "cached some" });
    part.style.width = `${(100 * count) / most}%`;
    bar.append(part);
    return el("div", { class: "units" }, el("div", { class: "units-head" }, el("span", {}, `${length} right`), el("span", { class: "numbers" }, share)), bar);
  });
}

function units([name, { used, cached, free, total }]) {
  const label = name.replaceAll("_", " ");
  const bar = el("div", { class: "bar", role: "img", "aria-label": `${label}: ${used} used, ${cached} cached, ${free} free` });
  for (const [kind, count] of [["used", used], ["cached", cached]]) {
    const part = el("span", { class: kind });
    if (count) part.classList.add("some");
    part.style.width = `${total ? (100 * count) / total : 0}%`;
    bar.append(part);
  }
  const told = el("span", { class: "numbers" }, `${number(used)} used, ${number(cached)} kept, of ${number(total)}`);
  return el("div", { class: "units" }, el("div", { class: "units-head" }, el("span", {}, label), told), bar);
}

const legend = () =>
  el("p", { class: "legend", "aria-hidden": "true" }, el("i", { class: "used" }), "used ", el("i", { class: "cached" }), "kept for reuse ", el("i", {}), "free");

function speed(title, now, history) {
  const most = Math.max(...history, 1);
  const points = history.map((value, n) => `${(100 * (HISTORY - history.length + n)) / (HISTORY - 1)},${29 - (27 * value) / most}`);
  const picture = document.createElementNS(SVG, "svg");
  for (const [name, value] of [["viewBox", "0 0 100 30"], ["preserveAspectRatio", "none"], ["aria-hidden", "true"]]) picture.setAttribute(name, value);
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("points", points.join(" "));
  picture.append(line);
  const head = el("div", { class: "units-head" }, el("span", {}, title), el("strong", {}, `${number(now, now < 10 ? 1 : 0)} /s`));
  return el("div", { class: "speed" }, head, picture);
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (count >= 1024 && at < units.length - 1) [count, at] = [count / 1024, at + 1];
  return `${number(count, at ? 1 : 0)} ${units[at]}`;
}
