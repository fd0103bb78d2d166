// Puts the page together: the header, the composer, the panels and the keyboard.

import { Conversation } from "./conversation.js";
import { announce, el, find } from "./dom.js";
import { EngineView } from "./engine.js";
import { showSettings } from "./settings.js";
import { request } from "./stream.js";

const prompt = find("#prompt");
const model = () => find("#model").value;
const engine = new EngineView(model);
const conversation = new Conversation(model, () => {
  find("#send").hidden = conversation.isBusy;
  find("#stop").hidden = !conversation.isBusy;
});

// Models

async function loadModels() {
  const picker = find("#model");
  try {
    const { data } = await (await request("v1/models")).json();
    const chosen = localStorage.getItem("hyla.model");
    picker.replaceChildren(...data.map(({ id }) => el("option", { value: id }, id)));
    if (data.some(({ id }) => id === chosen)) picker.value = chosen;
    find("#problem")?.remove();
  } catch (error) {
    picker.replaceChildren(el("option", { value: "" }, "no model"));
    showProblem(error.status === 401 ? "This server wants an API key: enter it in the settings." : error.message);
    if (error.status === 401) togglePanel("settings", true);
  }
  nameModel();
}

function showProblem(text) {
  find("#problem")?.remove();
  find("#welcome").append(el("p", { id: "problem", class: "error", role: "alert" }, text));
}

function nameModel() {
  find("#welcome-model").textContent = model() || "the model";
  document.title = model() ? `${model()} – Hyla` : "Hyla";
}

find("#model").addEventListener("change", () => {
  localStorage.setItem("hyla.model", model());
  nameModel();
  engine.look();
});

// Composer

function grow() {
  prompt.style.height = "auto";
  prompt.style.height = `${Math.min(prompt.scrollHeight, innerHeight * 0.4)}px`;
}

function send() {
  if (conversation.isBusy || !prompt.value.trim()) return;
  const text = prompt.value;
  prompt.value = "";
  grow();
  conversation.send(text);
}

find("#composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
prompt.addEventListener("input", grow);
prompt.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    send();
  } else if (event.key === "ArrowUp" && !prompt.value) {
    event.preventDefault();
    conversation.editLast();
  }
});
find("#stop").addEventListener("click", () => {
  conversation.stop();
  prompt.focus();
});

// Panels

const PANELS = ["settings", "engine"];

function togglePanel(name, isOpen = find(`#${name}`).hidden) {
  for (const each of PANELS) {
    const open = each === name && isOpen;
    find(`#${each}`).hidden = !open;
    find(`#show-${each}`).setAttribute("aria-expanded", String(open));
    if (each === "engine") engine.open(open);
  }
  if (isOpen) find(`#${name} ${name === "settings" ? "select" : ".close"}`).focus();
}

function closePanels() {
  const open = PANELS.find((name) => !find(`#${name}`).hidden);
  if (!open) return false;
  togglePanel(open, false);
  find(`#show-${open}`).focus();
  return true;
}

for (const name of PANELS) {
  find(`#show-${name}`).addEventListener("click", () => togglePanel(name));
  find(`#${name} .close`).addEventListener("click", closePanels);
}

// Keyboard

function startAnew() {
  conversation.clear();
  prompt.focus();
}

function switchTheme() {
  announce(`${window.toggleTheme()} theme`);
}

const ALT = {
  KeyN: ["N", "New conversation", startAnew],
  KeyR: ["R", "Answer again", () => conversation.regenerate()],
  KeyE: ["E", "Edit your last message", () => conversation.editLast()],
  KeyM: ["M", "Choose a model", () => find("#model").focus()],
  KeyS: ["S", "Settings", () => togglePanel("settings")],
  KeyG: ["G", "Engine", () => togglePanel("engine")],
  KeyT: ["T", "Light or dark", switchTheme],
};
const OTHERS = [
  [["Enter"], "Send"],
  [["Shift", "Enter"], "New line"],
  [["Esc"], "Stop the answer, or close what is open"],
  [["/"], "Go to the message field"],
  [["↑"], "Edit your last message (in an empty field)"],
  [["?"], "This list"],
];

function showShortcuts() {
  const keys = [...OTHERS, ...Object.values(ALT).map(([letter, text]) => [["Alt", letter], text])];
  const rows = keys.map(([own, text]) => el("tr", {}, el("th", { scope: "row" }, ...own.map((each) => el("kbd", {}, each))), el("td", {}, text)));
  find("#shortcuts tbody").replaceChildren(...rows);
  find("#shortcuts").showModal();
}

const isTyping = (event) => event.target.matches("input, textarea, select");

document.addEventListener("keydown", (event) => {
  if (event.isComposing || find("#shortcuts").open) return;
  if (event.altKey && !event.ctrlKey && !event.metaKey && event.code in ALT) {
    event.preventDefault();
    ALT[event.code][2]();
  } else if (event.key === "Escape") {
    if (conversation.isBusy) conversation.stop();
    else closePanels();
  } else if (!isTyping(event) && event.key === "/") {
    event.preventDefault();
    prompt.focus();
  } else if (event.key === "?" && (!isTyping(event) || (event.target === prompt && !prompt.value))) {
    event.preventDefault();
    showShortcuts();
  }
});
find("#new").addEventListener("click", startAnew);
find("#theme").addEventListener("click", switchTheme);
find("#help").addEventListener("click", showShortcuts);

showSettings(loadModels);
conversation.restore();
loadModels();
