// The sample browser. Data: #sample-data, written by samples.py. All text goes through
// textContent: what a model wrote is shown, never interpreted.
"use strict";
(function () {
  const form = document.getElementById("filters");
  if (!form) return;
  const PAGE_SIZE = 8;
  const ARMS = { thought: "Thought arm", direct: "Direct arm" };
  const STATUSES = {
    complete: "complete",
    no_response: "no response marker",
    truncated: "cut off by the token limit",
    empty_response: "empty response",
  };
  const data = JSON.parse(document.getElementById("sample-data").textContent);
  const groups = data.groups.map((group) => ({
    ...group,
    outputs: group.outputs.map((row) =>
      Object.fromEntries(data.fields.map((name, index) => [name, row[index]]))
    ),
  }));
  const place = document.getElementById("groups");
  const unfold = document.getElementById("unfold");
  let matching = [];
  let page = 0;

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // --- Filters -----------------------------------------------------------------------------

  function fillSelect(name, options) {
    const select = form.elements[name];
    const before = select.value;
    select.replaceChildren();
    for (const [value, label] of [["", "all"], ...options]) {
      const option = element("option", "", label);
      option.value = value;
      select.append(option);
    }
    if (options.some(([value]) => value === before)) select.value = before;
  }

  function fillFilters() {
    const kind = form.elements.kind.value;
    const own = groups.filter((group) => group.kind === kind);
    const outputs = own.flatMap((group) => group.outputs);
    const unique = (values) => [...new Set(values)].filter((value) => value !== null);
    const numbers = unique(outputs.map((output) => output.policy)).sort((a, b) => a - b);
    const names = unique(own.map((group) => data.prompts[group.prompt].category)).sort();
    const statuses = unique(outputs.map((output) => output.status));
    const outcomes = unique(own.map((group) => group.outcome));
    const label = (number) => (kind === "test" && number === 0 ? "0 (seed)" : String(number));
    document.getElementById("number-label").textContent =
      kind === "test" ? "Policy" : "Iteration";
    fillSelect("number", numbers.map((number) => [String(number), label(number)]));
    fillSelect("category", names.map((name) => [name, name]));
    fillSelect("status", statuses.map((status) => [status, STATUSES[status] || status]));
    fillSelect("outcome", outcomes.map((outcome) => [outcome, outcome.replaceAll("_", " ")]));
    form.elements.outcome.closest("label").hidden = kind === "test";
  }

  function searched(group) {
    if (group.text === undefined) {
      const prompt = data.prompts[group.prompt];
      const parts = prompt.messages.map((message) => message.content);
      for (const output of group.outputs) parts.push(output.thought || "", output.text);
      parts.push(group.prompt);
      group.text = parts.join("\n").toLowerCase();
    }
    return group.text;
  }

  function outputMatches(output, wanted) {
    return (
      (!wanted.arm || output.arm === wanted.arm) &&
      (!wanted.number || String(output.policy) === wanted.number) &&
      (!wanted.status || output.status === wanted.status)
    );
  }

  function groupMatches(group, wanted) {
    return (
      group.kind === wanted.kind &&
      (!wanted.category || data.prompts[group.prompt].category === wanted.category) &&
      (!wanted.outcome || group.outcome === wanted.outcome) &&
      group.outputs.some((output) => outputMatches(output, wanted)) &&
      (!wanted.text || searched(group).includes(wanted.text))
    );
  }

  function wantedNow() {
    const wanted = Object.fromEntries(new FormData(form));
    wanted.text = wanted.text.trim().toLowerCase();
    if (wanted.kind === "test") wanted.outcome = "";
    return wanted;
  }

  function apply() {
    const wanted = wantedNow();
    matching = groups.filter((group) => groupMatches(group, wanted));
    page = 0;
    show();
  }

  // --- One group ---------------------------------------------------------------------------

  function number(value) {
    if (Number.isInteger(value)) return String(value);
    return value.toLocaleString("en", { maximumFractionDigits: 3 }).replace("-", "\u2212");
  }

  function badges(group, output) {
    const line = element("div", "badges");
    if (group.kind === "test") {
      const policy = output.policy === 0 ? "seed" : "policy " + output.policy;
      line.append(element("span", "badge " + output.arm, ARMS[output.arm] + ", " + policy));
    } else {
      const role = roleOf(group, output);
      if (role) line.append(element("span", "badge " + role, role));
      line.append(element("span", "index", "sample " + output.index));
    }
    if (output.status !== "complete") {
      line.append(element("span", "badge failed", STATUSES[output.status] || output.status));
    }
    if (output.attempts > 1) {
      line.append(element("span", "index", output.attempts + " attempts"));
    }
    const score = output.score === null ? "no score" : "score " + number(output.score);
    const value = element("span", "score", score);
    if (output.shaped !== null) value.title = "after length control " + number(output.shaped);
    line.append(value);
    return line;
  }

  function roleOf(group, output) {
    if (group.chosen !== null && group.chosen === output.index) return "chosen";
    if (group.rejected !== null && group.rejected === output.index) return "rejected";
    return "";
  }

  // The text with what was searched for marked; a lower-case copy of another length (it happens
  // with some letters) has other positions, so nothing is marked there.
  function modelText(className, text) {
    const block = element("div", "text " + className);
    block.dir = "auto";
    const wanted = wantedNow().text;
    const lower = text.toLowerCase();
    let done = 0;
    if (wanted && lower.length === text.length) {
      for (let at = lower.indexOf(wanted); at >= 0; at = lower.indexOf(wanted, done)) {
        block.append(text.slice(done, at), element("mark", "", text.slice(at, at + wanted.length)));
        done = at + wanted.length;
      }
    }
    block.append(text.slice(done));
    return block;
  }

  function holds(text) {
    const wanted = wantedNow().text;
    return wanted !== "" && text.toLowerCase().includes(wanted);
  }

  function outputCard(group, output) {
    const card = element("article", "output " + roleOf(group, output));
    card.append(badges(group, output));
    if (output.thought) {
      const details = element("details", "thought");
      details.open = unfold.checked || holds(output.thought);
      const tokens = output.thought_tokens + " tokens";
      details.append(element("summary", "", "Thought (" + tokens + ")"));
      details.append(modelText("thought-text", output.thought));
      card.append(details);
    }
    if (output.status !== "complete") {
      card.append(element("p", "raw-label", "No response. The whole output:"));
    }
    card.append(modelText("response", output.text || "(nothing)"));
    const lengths = [];
    if (output.status === "complete") lengths.push(output.response_tokens + " response tokens");
    if (output.shaped !== null) lengths.push("score after length control " + number(output.shaped));
    if (lengths.length) card.append(element("p", "lengths", lengths.join(" · ")));
    return card;
  }

  function promptBlock(prompt) {
    const block = element("div", "prompt");
    const earlier = prompt.messages.slice(0, -1);
    if (earlier.length) {
      const details = element("details", "earlier");
      details.append(element("summary", "", "Earlier turns (" + earlier.length + ")"));
      for (const message of earlier) {
        details.append(element("p", "role", message.role));
        details.append(modelText("", message.content));
      }
      block.append(details);
    }
    block.append(modelText("question", prompt.messages[prompt.messages.length - 1].content));
    return block;
  }

  function groupHead(group, prompt) {
    const head = element("div", "group-head");
    if (group.kind === "train") {
      const name = ARMS[group.arm] + ", iteration " + group.iteration;
      head.append(element("span", "badge " + group.arm, name));
    } else {
      head.append(element("span", "badge plain", "test prompt"));
    }
    if (prompt.category) head.append(element("span", "badge plain", prompt.category));
    if (prompt.reference !== null) {
      const reference = element("span", "reference", "reference: " + prompt.reference);
      reference.dir = "auto";
      head.append(reference);
    }
    head.append(element("code", "id", group.prompt));
    return head;
  }

  function verdict(group) {
    if (group.kind === "test") return null;
    let text = "Not paired yet.";
    if (group.outcome) text = data.outcomes[group.outcome] || group.outcome;
    if (group.unjudged) text += " The judge said: " + group.unjudged;
    return element("p", "verdict", text);
  }

  function foldable(label, cards) {
    const details = element("details", "others");
    details.append(element("summary", "", label));
    const grid = element("div", "outputs");
    grid.append(...cards);
    details.append(grid);
    return details;
  }

  function groupCard(group, wanted) {
    const prompt = data.prompts[group.prompt];
    const card = element("section", "group card");
    card.append(groupHead(group, prompt), promptBlock(prompt));
    const reason = verdict(group);
    if (reason) card.append(reason);
    const outputs = group.outputs.filter((output) => outputMatches(output, wanted));
    const rank = (output) => ["chosen", "rejected", ""].indexOf(roleOf(group, output));
    if (group.kind === "train") {
      outputs.sort((a, b) => rank(a) - rank(b) || (b.score ?? -1e9) - (a.score ?? -1e9));
    }
    const paired = outputs.filter((output) => roleOf(group, output)).length;
    const first = group.kind === "test" ? outputs.length : paired || Math.min(2, outputs.length);
    const grid = element("div", "outputs");
    grid.append(...outputs.slice(0, first).map((output) => outputCard(group, output)));
    card.append(grid);
    const rest = outputs.slice(first);
    if (rest.length) {
      const label = rest.length + (rest.length === 1 ? " more sample" : " more samples");
      const more = foldable(label, rest.map((output) => outputCard(group, output)));
      more.open = rest.some((output) => holds(output.text) || holds(output.thought || ""));
      card.append(more);
    }
    if (group.evidence) {
      const details = element("details", "evidence");
      details.append(element("summary", "", "What the judge wrote"));
      details.append(modelText("", group.evidence));
      card.append(details);
    }
    return card;
  }

  // --- The list ----------------------------------------------------------------------------

  function show() {
    const pages = Math.max(1, Math.ceil(matching.length / PAGE_SIZE));
    const start = page * PAGE_SIZE;
    const wanted = wantedNow();
    const cards = matching.slice(start, start + PAGE_SIZE).map((one) => groupCard(one, wanted));
    if (!cards.length) cards.push(element("p", "card notice", "No sample matches these filters."));
    place.replaceChildren(...cards);
    const count = matching.length.toLocaleString("en");
    document.getElementById("matches").textContent =
      count + (matching.length === 1 ? " prompt" : " prompts");
    document.getElementById("page").textContent = "Page " + (page + 1) + " of " + pages;
    document.getElementById("previous").disabled = page === 0;
    document.getElementById("next").disabled = page + 1 >= pages;
  }

  function turn(step) {
    page += step;
    show();
    document.getElementById("samples").scrollIntoView();
  }

  let waiting = 0;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => {
    if (event.target.name === "kind") fillFilters();
    apply();
  });
  form.elements.text.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(apply, 150);
  });
  unfold.addEventListener("change", () => {
    for (const details of place.querySelectorAll("details.thought")) {
      details.open = unfold.checked;
    }
  });
  document.getElementById("previous").addEventListener("click", () => turn(-1));
  document.getElementById("next").addEventListener("click", () => turn(1));
  if (!groups.some((group) => group.kind === "train")) form.elements.kind.value = "test";
  fillFilters();
  apply();
})();
