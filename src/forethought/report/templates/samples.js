// The sample browser: its filters, its search, and the list of what they leave.
"use strict";
{% include "sample_data.js" %}
{% include "sample_list.js" %}
{% include "sample_cards.js" %}
(function () {
  const form = document.getElementById("filters");
  if (!form) return;
  // Browsers end a document at some 17 million pixels.
  const LIST_LIMIT = 16000;
  const TYPING = 120; // milliseconds without a key before the search begins
  const { ARMS, STATUSES, element, roleOf } = sampleBrowser;
  const place = document.getElementById("sample-data");
  const data = JSON.parse(place.textContent);
  place.textContent = "";
  const store = new sampleBrowser.Store(data);
  const box = document.getElementById("cases");
  const unfold = document.getElementById("unfold");
  const status = document.getElementById("matches");
  const view = { words: "", unfold: false, layout: "pairs", linked: "", within, passes };
  view.open = new Map();
  const cards = new sampleBrowser.Cards(store, view);
  if (data.notice !== undefined) tellLimit(data.notice);
  const list = new sampleBrowser.List(box, (one) => cards.make(one));
  let wanted = {};
  let found = null; // of the search
  let turn = 0;

  // A page that fetches its samples has other limits than a file.
  function tellLimit(text) {
    const line = document.getElementById("subset");
    line.textContent = text;
    line.hidden = text === "";
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
    const own = store.cases.filter((one) => one.kind === kind);
    const seen = { run: new Set(), arm: new Set(), number: new Set(), category: new Set() };
    Object.assign(seen, { status: new Set(), outcome: new Set() });
    for (const one of own) {
      seen.run.add(one.run);
      seen.category.add(one.category);
      for (const group of one.groups) {
        seen.arm.add(group.arm);
        if (group.outcome !== null) seen.outcome.add(group.outcome);
        for (const output of group.outputs) {
          seen.number.add(output.policy);
          seen.status.add(output.status);
        }
      }
    }
    const test = kind === "test";
    const label = (number) => {
      if (number < 0) return test ? "plain seed" : "warm start";
      return test && number === 0 && !seen.number.has(-1) ? "0 (seed)" : String(number);
    };
    const numbers = [...seen.number].sort((a, b) => a - b);
    document.getElementById("number-label").textContent = test ? "Policy" : "Iteration";
    fillSelect("run", [...seen.run].map((name) => [name, name]));
    fillSelect("arm", [...seen.arm].map((arm) => [arm, ARMS[arm]]));
    fillSelect("number", numbers.map((number) => [String(number), label(number)]));
    fillSelect("category", [...seen.category].sort().map((name) => [name, name]));
    fillSelect("status", [...seen.status].map((one) => [one, STATUSES[one] || one]));
    fillSelect("outcome", [...seen.outcome].map((one) => [one, one.replaceAll("_", " ")]));
    form.elements.run.closest("label").hidden = store.runs.length < 2;
    for (const name of ["outcome", "role", "layout"]) {
      form.elements[name].closest("label").hidden = test;
    }
  }

  function readForm() {
    const number = (name) => {
      const value = form.elements[name].valueAsNumber;
      return Number.isNaN(value) ? null : value;
    };
    wanted = Object.fromEntries(new FormData(form));
    wanted.from = number("from");
    wanted.to = number("to");
    wanted.words = wanted.text.trim().toLowerCase();
    if (wanted.kind === "test") Object.assign(wanted, { outcome: "", role: "" });
    Object.assign(view, { unfold: unfold.checked, layout: wanted.layout });
  }

  // Whether an output belongs to the arm and iteration that are looked at.
  function within(group, output) {
    return (
      (!wanted.arm || group.arm === wanted.arm) &&
      (!wanted.number || String(output.policy) === wanted.number) &&
      (!wanted.outcome || group.outcome === wanted.outcome)
    );
  }

  function passes(group, output) {
    return (
      within(group, output) &&
      (!wanted.status || output.status === wanted.status) &&
      (!wanted.role || (roleOf(group, output) || "neither") === wanted.role) &&
      (wanted.from === null || (output.score !== null && output.score >= wanted.from)) &&
      (wanted.to === null || (output.score !== null && output.score <= wanted.to))
    );
  }

  // Outputs of a prompt that pass all filters; those that hold the words, where it does not.
  function matches(one) {
    if (one.kind !== wanted.kind) return 0;
    if (wanted.run && one.run !== wanted.run) return 0;
    if (wanted.category && one.category !== wanted.category) return 0;
    let count = 0;
    const whole = !found || found.cases[one.place];
    for (const group of one.groups) {
      for (const output of group.outputs) {
        if ((whole || found.outputs[output.number]) && passes(group, output)) count++;
      }
    }
    return count;
  }

  function counted(count, word) {
    return count.toLocaleString("en") + " " + word + (count === 1 ? "" : "s");
  }

  function show() {
    const matching = [];
    let outputs = 0;
    for (const one of store.cases) {
      const count = matches(one);
      if (!count) continue;
      outputs += count;
      matching.push(one);
    }
    list.setItems(matching.slice(0, LIST_LIMIT));
    document.getElementById("none").hidden = matching.length > 0;
    box.hidden = matching.length === 0;
    let text = counted(matching.length, "prompt") + ", " + counted(outputs, "output");
    if (matching.length > LIST_LIMIT) {
      text += "; the list ends after " + counted(LIST_LIMIT, "prompt") + ", so narrow the filters";
    }
    status.textContent = text;
  }

  async function apply() {
    const mine = ++turn;
    readForm();
    if (!wanted.words) {
      found = null;
    } else if (!found || found.words !== wanted.words) {
      const waiting = setTimeout(() => (status.textContent = "Searching…"), 300);
      const result = await store.search(wanted.words, () => mine !== turn).catch(failed);
      clearTimeout(waiting);
      if (!result || mine !== turn) return;
      found = result;
    }
    view.words = wanted.words;
    show();
  }

  function failed(error) {
    status.textContent = "The samples could not be unpacked: " + error.message;
    return null;
  }

  // --- Links to one sample ------------------------------------------------------------------

  // Show what the address names, whatever the filters leave.
  async function follow() {
    const target = store.named(location.hash);
    view.linked = target && target.output ? location.hash : "";
    for (const other of box.querySelectorAll(".linked")) other.classList.remove("linked");
    if (!target) return;
    const { one, group, output } = target;
    if (!one) {
      status.textContent = "The sample that this address names is not on this page.";
      return;
    }
    await uncover(one, group, output);
    await store.load(one.piece);
    list.goTo({ key: one.key, by: 0 });
    // The heights of its card and of those beside it become known.
    for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame);
    const shown = [...box.querySelectorAll(".output")];
    const card = shown.find((other) => other.dataset.address === view.linked);
    if (!card) {
      box.scrollIntoView({ behavior: "instant" });
      return;
    }
    for (let fold = card.closest("details"); fold; fold = fold.parentElement.closest("details")) {
      fold.open = true;
    }
    card.classList.add("linked");
    card.tabIndex = -1;
    card.focus({ preventScroll: true });
    const block = card.offsetHeight > box.clientHeight ? "start" : "center";
    card.scrollIntoView({ block, inline: "nearest", behavior: "instant" });
  }

  // Clear the filters where they hide the case or its output.
  async function uncover(one, group, output) {
    const listed = () => list.items.includes(one) && (!output || passes(group, output));
    if (listed()) return;
    for (const field of form.elements) {
      if (field.name && field.name !== "layout") field.value = "";
    }
    form.elements.kind.value = one.kind;
    fillFilters();
    await apply();
    if (listed()) return;
    // Beyond the end of the list: a search finds a prompt by its name too.
    form.elements.text.value = one.prompt;
    await apply();
  }

  // --- State, for a page that is loaded again -----------------------------------------------

  sampleBrowser.state = () => ({
    form: [...form.elements].filter((one) => one.name).map((one) => [one.name, one.value]),
    unfold: unfold.checked,
    open: [...view.open],
    anchor: list.anchor(),
  });

  async function restore(state) {
    if (!state) return;
    unfold.checked = state.unfold;
    view.open = new Map(state.open);
    const values = new Map(state.form);
    form.elements.kind.value = values.get("kind");
    fillFilters();
    for (const [name, value] of values) {
      form.elements[name].value = value;
      // A choice that is no longer offered leaves a list of choices without any.
      if (form.elements[name].selectedIndex === -1) form.elements[name].value = "";
    }
    await apply();
    list.goTo(state.anchor);
  }

  // --- Wiring ------------------------------------------------------------------------------

  form.addEventListener("submit", (event) => event.preventDefault());

  // Only once there is something to choose from.
  function wire() {
    let typing = 0;
    const soon = () => {
      clearTimeout(typing);
      typing = setTimeout(apply, TYPING);
    };
    form.addEventListener("change", (event) => {
      if (event.target.name === "kind") fillFilters();
      if (event.target.name !== "text") apply();
    });
    for (const name of ["text", "from", "to"]) form.elements[name].addEventListener("input", soon);
    form.addEventListener("reset", () => {
      const { kind, layout } = wanted;
      setTimeout(() => {
        Object.assign(form.elements.kind, { value: kind });
        Object.assign(form.elements.layout, { value: layout });
        apply();
      });
    });
    unfold.addEventListener("change", () => {
      for (const key of view.open.keys()) if (key.endsWith(" thought")) view.open.delete(key);
      readForm();
      list.remake();
    });
  }

  async function start() {
    await store.open();
    wire();
    const kinds = new Set(store.cases.map((one) => one.kind));
    if (!kinds.has("train")) form.elements.kind.value = "test";
    fillFilters();
    await apply();
    await follow().catch(failed);
    window.addEventListener("hashchange", () => follow().catch(failed));
    box.dataset.ready = "true";
    store.prepare().catch(failed);
  }
  if (typeof DecompressionStream === "undefined") {
    status.textContent =
      "This browser cannot unpack the samples; one of 2023 or later can (DecompressionStream).";
    sampleBrowser.ready = Promise.resolve();
  } else {
    sampleBrowser.ready = start().catch(failed);
  }
  sampleBrowser.restore = (state) => sampleBrowser.ready.then(() => restore(state));
})();
