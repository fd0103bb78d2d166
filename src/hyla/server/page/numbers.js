// What an answer took, by the server's counts where it told them.

import { number } from "./dom.js";

export class Tally {
  constructor() {
    Object.assign(this, { started: performance.now(), first: null, last: null, pieces: 0, usage: null, finish: null });
  }

  /** A chunk of the stream. */
  take({ text, reasoning, calls, finish, usage }) {
    if (text || reasoning || calls.length) {
      this.last = performance.now();
      this.first ??= this.last;
      this.pieces += 1;
    }
    this.finish = finish ?? this.finish;
    this.usage = usage ?? this.usage;
  }

  /** Plain data for `describe`, which can be kept. */
  count(isStopped) {
    const seconds = this.first === null ? 0 : (this.last - this.first) / 1000;
    const tokens = this.usage?.completion_tokens ?? this.pieces;
    return {
      prompt: this.usage?.prompt_tokens ?? null,
      cached: this.usage?.prompt_tokens_details?.cached_tokens ?? 0,
      drafts: this.usage?.completion_tokens_details?.accepted_prediction_tokens ?? 0,
      tokens,
      firstSeconds: this.first === null ? null : (this.first - this.started) / 1000,
      perSecond: seconds > 0 && tokens > 1 ? (tokens - 1) / seconds : null,
      ending: isStopped ? "stopped" : this.finish === "length" ? "length limit" : null,
    };
  }
}

export function describe({ prompt, cached, drafts, tokens, firstSeconds, perSecond, ending }) {
  const parts = [];
  if (prompt !== null) parts.push(`${number(prompt)} prompt tokens` + (cached ? `, ${number(cached)} cached` : ""));
  parts.push(`${number(tokens)} tokens` + (drafts ? `, ${number(drafts)} by right drafts` : ""));
  if (perSecond !== null) parts.push(`${number(perSecond, 1)} tokens/s`);
  if (firstSeconds !== null) parts.push(`first after ${number(firstSeconds, 2)} s`);
  if (ending) parts.push(ending);
  return parts.join(" · ");
}
