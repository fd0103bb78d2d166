// Talking to the server: requests with the key, server-sent events, and errors as sentences.

export class ServerError extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The key is kept for this tab only. */
export const key = {
  get: () => sessionStorage.getItem("hyla.key") ?? "",
  set: (value) => (value ? sessionStorage.setItem("hyla.key", value) : sessionStorage.removeItem("hyla.key")),
};

export async function request(path, { body, signal } = {}) {
  const headers = key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached. Is it still running?", 0);
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  const after = response.headers.get("Retry-After");
  const message = told?.error?.message ?? `The server answered with status ${response.status}.`;
  throw new ServerError(message + (after ? ` (again in ${after} s)` : ""), response.status, told?.error?.code);
}

/** Data of server-sent events, as they come, whatever pieces the network makes of them. */
export async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      rest += done ? decoder.decode() + "\n\n" : decoder.decode(value, { stream: true });
      // A lone \r at the end may be half of \r\n.
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Chunks of a streamed answer: {text, reasoning, calls, finish, usage}. */
export async function* answer(path, body, signal) {
  const response = await request(path, { body: { ...body, stream: true, stream_options: { include_usage: true } }, signal });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message, 500, chunk.error.code);
    const choice = chunk.choices?.[0];
    const delta = choice?.delta ?? {};
    yield {
      text: delta.content ?? choice?.text ?? "",
      reasoning: delta.reasoning_content ?? delta.reasoning ?? "",
      calls: delta.tool_calls ?? [],
      finish: choice?.finish_reason ?? null,
      usage: chunk.usage ?? null,
    };
  }
}

const OPEN = "<think>";
const CLOSE = "</think>";

/** {reasoning, content, isThinking} of raw text that may hold a think block; a tag that is only half there is held back. */
export function splitThinking(text) {
  const start = text.trimStart();
  const close = start.indexOf(CLOSE);
  const opened = start.startsWith(OPEN);
  if (close >= 0) {
    const reasoning = start.slice(opened ? OPEN.length : 0, close);
    return { reasoning: reasoning.trim(), content: start.slice(close + CLOSE.length).trimStart(), isThinking: false };
  }
  if (opened) return { reasoning: withoutHalf(start.slice(OPEN.length), CLOSE).trim(), content: "", isThinking: true };
  if (start && OPEN.startsWith(start)) return { reasoning: "", content: "", isThinking: false };
  return { reasoning: "", content: text, isThinking: false };
}

function withoutHalf(text, tag) {
  for (let length = tag.length - 1; length > 0; length -= 1) {
    if (text.endsWith(tag.slice(0, length))) return text.slice(0, -length);
  }
  return text;
}
