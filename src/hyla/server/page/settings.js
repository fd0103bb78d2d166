// What is asked of the model besides the conversation. For an empty field the model's
// advice is sent, or nothing: then the server's default holds.

import { el, find } from "./dom.js";
import { key } from "./stream.js";

const FIELDS = [
  { name: "mode", label: "Mode", kind: "select", options: [["chat", "Chat, if the model can"], ["text", "Continue text"]],
    hint: "A base model, which has no chat template, always continues text." },
  { name: "system", label: "System message", kind: "textarea" },
  { name: "max_tokens", label: "Longest answer, tokens", kind: "number", min: 1, step: 1, hint: "Empty: as long as it wants; a continuation stops after 120." },
  { name: "temperature", label: "Temperature", kind: "number", min: 0, max: 2, step: 0.05, isHalf: true },
  { name: "top_p", label: "Top p", kind: "number", min: 0.01, max: 1, step: 0.01, isHalf: true },
  { name: "top_k", label: "Top k", kind: "number", min: 1, step: 1, isHalf: true },
  { name: "min_p", label: "Min p", kind: "number", min: 0, max: 1, step: 0.01, isHalf: true },
  { name: "repetition_penalty", label: "Repetition", kind: "number", min: 0.1, max: 2, step: 0.05, isHalf: true },
  { name: "seed", label: "Seed", kind: "number", min: 0, step: 1, isHalf: true },
  { name: "stop", label: "Stop at (one a line)", kind: "textarea" },
  { name: "thinking", label: "Thinking", kind: "select", options: [["", "As the model does"], ["on", "On"], ["off", "Off"]] },
  { name: "key", label: "API key", kind: "password", hint: "Kept until this tab is closed." },
];
const STORE = "hyla.settings";
const CONTINUED_TOKENS = 120;

const values = load();
let advice = {};

/** What is sent for fields that are left empty, as the chosen model advises; shown in them. */
export function advise(given) {
  advice = given;
  for (const { name, kind } of FIELDS) {
    if (kind === "number") find(`#set-${name}`).placeholder = String(given[name] ?? "default");
  }
}

function load() {
  const initial = Object.fromEntries(FIELDS.map((field) => [field.name, field.options?.[0][0] ?? ""]));
  try {
    return { ...initial, ...JSON.parse(localStorage.getItem(STORE) ?? "{}") };
  } catch {
    return initial;
  }
}

function save() {
  try {
    localStorage.setItem(STORE, JSON.stringify({ ...values, key: "" }));
  } catch {
    // A browser that keeps nothing forgets them with the page.
  }
}

/** Fill the form. onKey, onMode: called when the key, or what is done with models, changes. */
export function showSettings(onKey, onMode) {
  values.key = key.get();
  const called = { key: onKey, mode: onMode };
  for (const field of FIELDS) find("#settings-form").append(row(field, called[field.name]));
  find("#settings-form").addEventListener("submit", (event) => event.preventDefault());
}

function row(field, onChange) {
  const id = `set-${field.name}`;
  const hint = field.hint ? el("small", { id: `${id}-hint` }, field.hint) : null;
  const common = { id, name: field.name, "aria-describedby": hint ? `${id}-hint` : null };
  let input;
  if (field.kind === "select") {
    input = el("select", common, ...field.options.map(([value, text]) => el("option", { value }, text)));
  } else if (field.kind === "textarea") input = el("textarea", { ...common, rows: "2" });
  else {
    const { kind, min, max, step } = field;
    const more = { inputmode: kind === "number" ? "decimal" : null, autocomplete: "off" };
    input = el("input", { ...common, type: kind, min, max, step, ...more });
  }
  input.value = values[field.name];
  input.addEventListener("change", () => {
    if (!input.checkValidity()) {
      input.reportValidity();
      return;
    }
    values[field.name] = input.value;
    if (field.name === "key") key.set(input.value);
    save();
    onChange?.();
  });
  return el("div", { class: field.isHalf ? "row half" : "row" }, el("label", { for: id }, field.label), input, hint);
}

/** Whether a model that can talk shall. */
export const wantsChat = () => values.mode === "chat";

/** Fields of a chat request's body. */
export function chatting() {
  const body = sampling();
  if (values.thinking) body.chat_template_kwargs = { enable_thinking: values.thinking === "on" };
  return body;
}

/** Fields of the body of a request that continues a text. */
export const continuation = () => ({ max_tokens: CONTINUED_TOKENS, ...sampling() });

function sampling() {
  const body = { ...advice };
  for (const { name, kind } of FIELDS) {
    if (kind === "number" && values[name] !== "") body[name] = Number(values[name]);
  }
  const stops = values.stop.split("\n").filter((line) => line !== "");
  if (stops.length) body.stop = stops;
  return body;
}

export const systemMessage = () => (values.system.trim() ? [{ role: "system", content: values.system }] : []);
