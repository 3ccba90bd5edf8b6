// The conversation lives in this page alone; the key stays in this tab. What others wrote is set as
// text; of an answer's Markdown `markdown` makes elements.
"use strict";
{% include "markdown.js" %}
(function () {
  const settings = JSON.parse(document.body.dataset.settings);
  const find = (id) => document.getElementById(id);
  const turns = find("turns"), message = find("message"), live = find("live");
  const KEY = "forethought-key";
  let conversation = [];
  let running = null;

  function made(parent, tag, name, text) {
    const one = document.createElement(tag);
    if (name) one.className = name;
    if (text !== undefined) one.textContent = text;
    parent.append(one);
    return one;
  }

  class Problem extends Error {}

  const REASONS = {
    401: "The server wants an API key, or refuses this one. Open “Key” above and give one.",
    403: "This key may not do that.",
    413: "The conversation is too long for the server. Begin a new chat.",
    429: "The server is busy. Wait a little and try again.",
    503: "The server is ending or not ready. Try again in a while.",
    504: "The answer took too long and was given up.",
  };

  function reason(status, text) {
    if (REASONS[status]) return REASONS[status];
    let said = "";
    try {
      said = JSON.parse(text).error.message;
    } catch (error) {
      // Not of OpenAI's shape: the status must do.
    }
    return `The server refuses this (status ${status})${said ? `: ${said}` : "."}`;
  }

  // The events of a stream, however its bytes are cut; `null` while the question waits for its turn.
  async function* events(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new Problem("The answer broke off: the server closed the connection.");
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith(": waiting")) yield null;
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        let event;
        try {
          event = JSON.parse(data);
        } catch (error) {
          throw new Problem("The server sent what this page cannot read.");
        }
        if (event.error) throw new Problem(`The server failed: ${event.error.message || "no reason is given"}`);
        yield event;
      }
    }
  }

  async function* answer(messages, think, signal) {
    const headers = { "Content-Type": "application/json" };
    const key = sessionStorage.getItem(KEY);
    if (key) headers.Authorization = `Bearer ${key}`;
    const body = { model: settings.model, messages, stream: true };
    // It says at the end whether there was a thought.
    body.stream_options = { include_usage: true };
    if (!think) body.think = false;
    let reply;
    try {
      reply = await fetch("v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal });
    } catch (error) {
      if (signal.aborted) throw error;
      throw new Problem("The server does not answer. Is it still running?");
    }
    if (!reply.ok) throw new Problem(reason(reply.status, await reply.text()));
    yield* events(reply.body);
  }

  class AnswerView {
    constructor(think) {
      this.item = made(turns, "li", "assistant");
      this.label = think ? "thinking" : "waiting";
      this.began = Date.now();
      this.waiting = made(this.item, "p", "waiting", `${this.label}…`);
      this.timer = setInterval(() => this.count(), 250);
      this.response = "";
      this.seconds = null; // until the response began
      this.drawing = 0;
    }

    passed() {
      return (Date.now() - this.began) / 1000;
    }

    count() {
      const seconds = Math.floor(this.passed());
      if (seconds) this.waiting.textContent = `${this.label}… ${seconds} s`;
    }

    add(event) {
      if (event === null) {
        this.began = Date.now();
        this.waiting.textContent = "waiting…";
        return;
      }
      const details = (event.usage || {}).completion_tokens_details || {};
      if (details.reasoning_tokens) this.thoughtTime();
      const choice = (event.choices || [])[0];
      if (choice) this.take(choice);
    }

    // That it thought, and for how long; never what.
    thoughtTime() {
      if (this.seconds === null) return;
      const text = `thought for ${this.seconds.toFixed(1)} s`;
      if (this.thought) this.thought.previousSibling.textContent = `T${text.slice(1)}`;
      else this.note(text);
    }

    take(choice) {
      const stuck = innerHeight + scrollY >= document.documentElement.scrollHeight - 60;
      const thought = choice.delta.reasoning || "";
      if (thought && settings.thoughts) this.think(thought);
      const text = choice.delta.content || "";
      if (text && !this.text) {
        this.seconds = this.passed();
        this.rest();
        this.text = made(this.item, "div", "text markdown");
      }
      this.response += text;
      if (text && !this.drawing) {
        this.drawing = requestAnimationFrame(() => {
          this.draw();
          if (stuck) scrollTo(0, document.documentElement.scrollHeight);
        });
      }
    }

    draw() {
      cancelAnimationFrame(this.drawing);
      this.drawing = 0;
      if (this.text) markdown(this.text, this.response);
    }

    think(thought) {
      if (!this.thought) {
        const fold = document.createElement("details");
        fold.className = "thought";
        made(fold, "summary", "", "Thought");
        this.thought = made(fold, "div", "text", "");
        this.item.prepend(fold);
      }
      this.thought.append(thought);
    }

    rest() {
      clearInterval(this.timer);
      this.waiting.remove();
    }

    note(text) {
      made(this.item, "p", "note", text);
    }

    problem(text, again) {
      const box = made(this.item, "p", "problem", text);
      box.setAttribute("role", "alert");
      const button = made(box, "button", "", "Try again");
      button.type = "button";
      button.addEventListener("click", () => {
        if (!running) again();
      });
    }
  }

  async function ask(text) {
    find("empty").hidden = true;
    const item = made(turns, "li", "user");
    made(item, "div", "text", text);
    await reply(text, item);
  }

  async function reply(text, item) {
    const direct = find("direct"); // only where the server lets thinking be turned off
    const think = !(direct && direct.checked);
    const view = new AnswerView(think);
    scrollTo(0, document.documentElement.scrollHeight);
    const asked = { role: "user", content: text };
    running = new AbortController();
    busy(true);
    let finish = null;
    let failed = null;
    const mine = running;
    try {
      for await (const event of answer([...conversation, asked], think, running.signal)) {
        view.add(event);
        for (const choice of (event && event.choices) || []) finish = choice.finish_reason || finish;
      }
    } catch (error) {
      failed = mine.signal.aborted ? "stopped"
        : error instanceof Problem ? error.message
        : "The connection broke. Try again.";
    }
    running = null;
    view.rest();
    view.draw();
    busy(false);
    if (view.item.isConnected) settle(view, item, asked, finish, failed);
  }

  // What an answer leaves behind; a question without one is not part of the conversation.
  function settle(view, item, asked, finish, failed) {
    if (view.response) conversation.push(asked, { role: "assistant", content: view.response });
    if (failed === "stopped") view.note("Stopped.");
    else if (failed) {
      view.problem(failed, () => {
        if (view.response) conversation.splice(-2);
        view.item.remove();
        reply(asked.content, item);
      });
    } else if (!view.response) view.note("No answer came.");
    else if (finish === "length") view.note("Cut at the token limit.");
    live.textContent = failed && failed !== "stopped" ? failed : view.response;
  }

  function busy(is) {
    find("send").hidden = is;
    find("stop").hidden = !is;
    find("clear").disabled = turns.childElementCount === 0;
    turns.setAttribute("aria-busy", String(is));
  }

  function grow() {
    message.style.height = "auto";
    message.style.height = `${message.scrollHeight + 2}px`;
  }

  find("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = message.value.trim();
    if (!text || running) return;
    message.value = "";
    grow();
    ask(text);
  });
  message.addEventListener("input", grow);
  message.addEventListener("keydown", (event) => {
    // An input method's own Enter takes a suggestion and sends nothing.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    find("ask").requestSubmit();
  });
  find("stop").addEventListener("click", () => {
    if (running) running.abort();
    message.focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && running) running.abort();
  });
  find("clear").addEventListener("click", () => {
    if (running) running.abort();
    conversation = [];
    turns.replaceChildren();
    find("empty").hidden = false;
    find("clear").disabled = true;
    message.focus();
  });

  function showKey(open) {
    find("key-form").hidden = !open;
    find("key-open").setAttribute("aria-expanded", String(open));
    if (open) find("key").focus();
  }
  function markKey() {
    find("key-open").textContent = sessionStorage.getItem(KEY) ? "Key ✓" : "Key";
  }
  find("key-open").addEventListener("click", () => showKey(find("key-form").hidden));
  find("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = find("key").value.trim();
    if (key) sessionStorage.setItem(KEY, key);
    find("key").value = "";
    markKey();
    showKey(false);
    message.focus();
  });
  find("key-forget").addEventListener("click", () => {
    sessionStorage.removeItem(KEY);
    find("key").value = "";
    markKey();
    showKey(false);
  });
  find("theme").addEventListener("click", () => {
    const root = document.documentElement;
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("forethought-theme", root.dataset.theme);
    } catch (error) {
      // Storage may be forbidden; the choice holds until the page is left.
    }
  });
  markKey();
})();
