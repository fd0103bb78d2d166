// Puts the page together: the header, the composer, the panels and the keyboard.

import { Conversation } from "./conversation.js";
import { announce, el, find } from "./dom.js";
import { EngineView } from "./engine.js";
import { advice, canTalk, cardOf, chosen, loadModels, rememberChoice } from "./models.js";
import { advise, showSettings, wantsChat } from "./settings.js";
import { Writing } from "./writing.js";

const prompt = find("#prompt");
const engine = new EngineView(chosen);
const conversation = new Conversation(chosen, () => {
  find("#send").hidden = conversation.isBusy;
  find("#stop").hidden = !conversation.isBusy;
});
const writing = new Writing(() => {
  find("#continue").hidden = writing.isBusy;
  find("#stop-text").hidden = !writing.isBusy;
});

// Models

const isChat = () => canTalk() && wantsChat();
const field = () => (isChat() ? prompt : find("#text"));
const work = () => (isChat() ? conversation : writing);

async function askForModels() {
  find("#problem")?.remove();
  try {
    await loadModels();
  } catch (error) {
    showProblem(error.status === 401 ? "This server wants an API key: enter it in the settings." : error.message);
    if (error.status === 401) togglePanel("settings", true);
  }
  showModel();
  if (PANELS.every((name) => find(`#${name}`).hidden)) field().focus();
}

function showProblem(text) {
  find("#scroller").prepend(el("p", { id: "problem", class: "error", role: "alert" }, text));
}

/** Show what the chosen model can do: talk, or continue a text. */
function showModel() {
  const name = chosen();
  document.title = name ? `${name} – Hyla` : "Hyla";
  for (const place of ["welcome", "writing"]) {
    find(`#${place}-model`).textContent = name || "the model";
    find(`#${place}-card`).replaceChildren(...[cardOf()].filter(Boolean));
  }
  find("#writing-why").textContent = canTalk()
    ? "It can talk, too: choose “Chat” in the settings. Here it goes on with whatever stands in the field."
    : "It is a base model: it knows no questions and answers. Write the beginning of a text, and it goes on.";
  find("main").classList.toggle("writes", !isChat());
  advise(advice());
  if (isChat()) writing.stop();
  else writing.open();
}

find("#model").addEventListener("change", () => {
  rememberChoice();
  conversation.stop();
  showModel();
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

// Text

find("#text-bar").addEventListener("submit", (event) => {
  event.preventDefault();
  writing.goOn();
});
find("#stop-text").addEventListener("click", () => {
  writing.stop();
  find("#text").focus();
});
find("#text").addEventListener("keydown", (event) => {
  if (event.isComposing || event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  writing.goOn();
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
  work().clear();
  field().focus();
}

function answerAgain() {
  if (isChat()) conversation.regenerate();
  else writing.again();
}

function switchTheme() {
  announce(`${window.toggleTheme()} theme`);
}

const ALT = {
  KeyN: ["N", "New conversation, or text", startAnew],
  KeyR: ["R", "Answer, or continue, again", answerAgain],
  KeyE: ["E", "Edit your last message", () => isChat() && conversation.editLast()],
  KeyM: ["M", "Choose a model", () => find("#model").focus()],
  KeyS: ["S", "Settings", () => togglePanel("settings")],
  KeyG: ["G", "Engine", () => togglePanel("engine")],
  KeyT: ["T", "Light or dark", switchTheme],
};
const OTHERS = [
  [["Enter"], "Send"],
  [["Shift", "Enter"], "New line"],
  [["Ctrl", "Enter"], "Continue the text"],
  [["Esc"], "Stop the model, or close what is open"],
  [["/"], "Go to the field"],
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
    if (work().isBusy) work().stop();
    else closePanels();
  } else if (!isTyping(event) && event.key === "/") {
    event.preventDefault();
    field().focus();
  } else if (event.key === "?" && (!isTyping(event) || (event.target === prompt && !prompt.value))) {
    event.preventDefault();
    showShortcuts();
  }
});
find("#new").addEventListener("click", startAnew);
find("#theme").addEventListener("click", switchTheme);
find("#help").addEventListener("click", showShortcuts);

showSettings(askForModels, showModel);
conversation.restore();
askForModels();
