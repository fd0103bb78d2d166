// The models of this server: which is chosen, what it can do, and its card.

import { el, find, number } from "./dom.js";
import { request } from "./stream.js";

const STORE = "hyla.model";
let served = [];

/** Ask the server, fill the picker, and choose: what was chosen before, else the first that can talk. */
export async function loadModels() {
  const picker = find("#model");
  try {
    served = (await (await request("v1/models")).json()).data;
  } catch (error) {
    served = [];
    picker.replaceChildren(el("option", { value: "" }, "no model"));
    throw error;
  }
  picker.replaceChildren(...served.map(({ id, is_chat }) => el("option", { value: id }, is_chat ? id : `${id} (continues text)`)));
  const before = served.find(({ id }) => id === localStorage.getItem(STORE));
  picker.value = (before ?? served.find(({ is_chat }) => is_chat) ?? served[0]).id;
}

export function rememberChoice() {
  localStorage.setItem(STORE, chosen());
}

/** The chosen model's name. */
export const chosen = () => find("#model").value;

const entry = () => served.find(({ id }) => id === chosen());

/** Whether it can talk. A server that cannot be asked is taken for one that can. */
export const canTalk = () => entry()?.is_chat ?? true;

/** How the model is best drawn from: {temperature, top_p, ...}, where it says. */
export const advice = () => ({ temperature: 0.7, ...entry()?.card?.sampling });

export const examples = () => entry()?.card?.examples ?? [];

/** The card as a closed element to open, or null: the model in a line, and what is known of it. */
export function cardOf() {
  const { card, facts } = entry() ?? {};
  if (!card) return null;
  const rows = facts.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]);
  return el("details", { class: "card" }, el("summary", {}, inShort(card)), el("dl", {}, ...rows));
}

function inShort(card) {
  const layers = Object.entries(card.mixers).map(([kind, count]) => `${count} ${kind}`);
  const parts = [`${size(card.parameters)} parameters`, layers.length ? `${layers.join(" + ")} layers` : ""];
  if (card.heldout) parts.push(`${number(card.heldout.bits_per_byte, 2)} bits per byte`);
  return parts.filter(Boolean).join(" · ");
}

function size(count) {
  for (const [unit, name] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"]]) {
    if (count >= unit) return `${number(count / unit, count < 100 * unit ? 1 : 0)} ${name}`;
  }
  return number(count);
}
