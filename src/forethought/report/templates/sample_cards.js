// One prompt with its outputs as elements. All text goes through textContent: what a model wrote
// is shown, never interpreted.
(function () {
  const ARMS = { thought: "Thought arm", direct: "Direct arm", hybrid: "Hybrid arm" };
  const LONG = { characters: 900, lines: 14 };
  const STATUSES = {
    complete: "complete",
    no_response: "no response marker",
    truncated: "cut off by the token limit",
    empty_response: "empty response",
  };
  sampleBrowser.ARMS = ARMS;
  sampleBrowser.STATUSES = STATUSES;

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }
  sampleBrowser.element = element;

  function number(value) {
    if (Number.isInteger(value)) return String(value).replace("-", "\u2212");
    return value.toLocaleString("en", { maximumFractionDigits: 3 }).replace("-", "\u2212");
  }

  sampleBrowser.roleOf = function (group, output) {
    if (group.chosen !== null && group.chosen === output.index) return "chosen";
    if (group.rejected !== null && group.rejected === output.index) return "rejected";
    return "";
  };
  const roleOf = sampleBrowser.roleOf;

  // A run with a warm start has -1: its iteration, and the plain seed among the policies.
  function iterationName(number) {
    return number < 0 ? "warm start" : "iteration " + number;
  }

  function policyName(one, policy) {
    if (policy > 0) return "policy " + policy;
    const warm = one.groups.some((group) => group.outputs.some((output) => output.policy < 0));
    return policy === 0 && warm ? "warm-started seed" : "seed";
  }

  // `view` is what the reader asked for: words, unfold, layout, passes(group, output), the address
  // of the output that is `linked`, and `open`, which remembers what was folded by hand.
  sampleBrowser.Cards = class {
    constructor(store, view) {
      this.store = store;
      this.view = view;
    }

    // The card of a prompt; its texts come when they are unpacked.
    make(one) {
      const card = element("article", "case card");
      card.setAttribute("aria-labelledby", "prompt-" + one.place);
      const texts = this.store.texts(one);
      if (texts) {
        this.#fill(card, one, texts);
      } else {
        card.append(element("p", "notice waiting", "Loading…"));
        this.store.load(one.piece).then(
          () => card.isConnected && this.#fill(card, one, this.store.texts(one)),
          (error) => {
            card.replaceChildren(element("p", "notice", "This prompt did not load: " + error.message));
          }
        );
      }
      return card;
    }

    #fill(card, one, [messages, reference, groupTexts]) {
      card.replaceChildren(this.#head(one, reference), this.#prompt(one, messages));
      const shown = one.groups
        .map((group, index) => [group, groupTexts[index]])
        .filter(([group]) => group.outputs.some((output) => this.view.within(group, output)));
      const wide = one.kind === "test" || this.view.layout === "all";
      const layout = wide ? "wide" : shown.length > 1 ? "beside" : "single";
      const arms = element("div", "arms " + layout);
      arms.append(...shown.map(([group, texts]) => this.#group(one, group, texts, wide)));
      card.append(arms);
    }

    #head(one, reference) {
      const head = element("div", "case-head");
      const iterations = new Set(one.groups.map((group) => iterationName(group.iteration)));
      const kind = one.kind === "train" ? [...iterations].join(", ") : "test prompt";
      if (this.store.runs.length > 1) head.append(element("span", "badge plain run", one.run));
      head.append(element("span", "badge plain", kind));
      head.append(element("span", "badge plain", one.category));
      const wanted = this.store.string(one, reference);
      if (wanted !== null) {
        const text = element("span", "reference", "reference: ");
        const value = element("bdi", "", wanted);
        text.append(value);
        head.append(text);
      }
      const link = element("a", "id");
      link.href = this.store.address(one);
      link.append(element("code", "", one.prompt));
      head.append(link);
      return head;
    }

    #prompt(one, messages) {
      const block = element("div", "prompt");
      const read = ([role, place]) => [role, this.store.string(one, place)];
      const earlier = messages.slice(0, -1).map(read);
      if (earlier.length) {
        const details = this.#details(one, "earlier", "earlier", this.#holds(earlier.map((m) => m[1])));
        details.append(element("summary", "", "Earlier turns (" + earlier.length + ")"));
        for (const [role, content] of earlier) {
          details.append(element("p", "role", role), this.#text(one, "earlier " + role, "", content));
        }
        block.append(details);
      }
      const [, question] = read(messages[messages.length - 1]);
      block.id = "prompt-" + one.place;
      block.append(this.#text(one, "question", "question", question));
      return block;
    }

    // --- One arm ---------------------------------------------------------------------------

    #group(one, group, [unjudged, evidence, outputTexts], wide) {
      const name = [group.arm, group.iteration].join(" ");
      const made = element("section", "arm " + group.arm);
      const head = element("div", "arm-head");
      head.append(element("span", "badge " + group.arm, ARMS[group.arm]));
      if (new Set(one.groups.map((other) => other.iteration)).size > 1) {
        head.append(element("span", "index", iterationName(group.iteration)));
      }
      made.append(head);
      if (one.kind === "train") {
        made.append(element("p", "verdict", this.#verdict(one, group, this.store.string(one, unjudged))));
      }
      const pairs = group.outputs.map((output, index) => [output, outputTexts[index]]);
      const asked = pairs.filter(([output]) => this.view.within(group, output));
      const card = ([output, texts]) => this.#output(one, group, output, texts);
      const row = element("div", "outputs");
      const first = wide ? asked : this.#first(group, asked);
      row.append(...first.map(card));
      if (wide) {
        row.tabIndex = 0;
        row.setAttribute("role", "group");
        row.setAttribute("aria-label", asked.length + " outputs, " + ARMS[group.arm]);
      }
      made.append(row);
      const rest = asked.filter((pair) => !first.includes(pair));
      if (rest.length) made.append(this.#rest(one, name, rest, card));
      const written = this.store.string(one, evidence);
      if (written !== null) {
        const details = this.#details(one, name + " evidence", "evidence", false);
        details.append(element("summary", "", "What the judge wrote"));
        details.append(this.#text(one, name + " evidence text", "", written));
        made.append(details);
      }
      return made;
    }

    // What stands before the fold: the outputs that were asked for by a filter, else the pair,
    // else the best and the worst.
    #first(group, asked) {
      const rank = ([output]) => ["chosen", "rejected", ""].indexOf(roleOf(group, output));
      const score = ([output]) => (output.score === null ? -Infinity : output.score);
      asked.sort((a, b) => rank(a) - rank(b) || score(b) - score(a) || a[0].index - b[0].index);
      const filtered = asked.filter(([output]) => this.view.passes(group, output));
      if (filtered.length < asked.length) return filtered;
      const paired = asked.filter(([output]) => roleOf(group, output));
      return paired.length ? paired : [...new Set([asked[0], asked[asked.length - 1]])];
    }

    #rest(one, name, rest, card) {
      const strings = rest.flatMap(([, places]) => places.map((at) => this.store.string(one, at)));
      const more = this.#details(one, name + " others", "others", this.#holds(strings));
      const label = rest.length + (rest.length === 1 ? " more sample" : " more samples");
      more.append(element("summary", "", label));
      const grid = element("div", "outputs");
      grid.append(...rest.map(card));
      more.append(grid);
      return more;
    }

    #verdict(one, group, unjudged) {
      if (!group.outcome) return "Not paired yet." + (unjudged ? " The judge said: " + unjudged : "");
      const side = (index) => group.outputs.find((output) => output.index === index);
      const scored = group.outputs.filter((output) => output.score !== null).length;
      if (group.outcome === "judged") {
        const [chosen, rejected] = [side(group.chosen), side(group.rejected)];
        const text = "Pair: " + named(one, chosen) + " over " + named(one, rejected);
        const margin = ", margin " + number(group.margin) + ".";
        if (one.priced) return text + margin + although(group, chosen);
        if (group.margin > 0) return text + margin;
        return text + margin + " Length control decided: the judge did not score it higher.";
      }
      if (group.outcome === "unparsable") {
        const chosen = named(one, side(group.chosen)) + ", the best response,";
        return "Pair: " + chosen + " over sample " + group.rejected + ", which has no response.";
      }
      const words = this.store.outcomes[group.outcome] || group.outcome;
      const counts = " " + scored + " of " + group.outputs.length + " outputs have a score.";
      return words + (unjudged ? " The judge said: " + unjudged : counts);
    }

    // --- One output ------------------------------------------------------------------------

    #output(one, group, output, [thought, text]) {
      const name = [group.arm, group.iteration, output.policy, output.index].join(" ");
      const passes = this.view.passes(group, output) ? "" : " other";
      const card = element("div", "output " + roleOf(group, output) + passes);
      card.dataset.address = this.store.address(one, group, output);
      card.classList.toggle("linked", card.dataset.address === this.view.linked);
      card.append(this.#badges(one, group, output, card.dataset.address));
      const thinking = this.store.string(one, thought);
      if (thinking) {
        const open = this.view.unfold || this.#holds([thinking]);
        const details = this.#details(one, name + " thought", "thought", open);
        details.append(element("summary", "", "Thought (" + output.thoughtTokens + " tokens)"));
        details.append(this.#text(one, name + " thought text", "thought-text", thinking));
        card.append(details);
      }
      if (output.status !== "complete") {
        card.append(element("p", "raw-label", "No response. The whole output:"));
      }
      const response = this.store.string(one, text) || "(nothing)";
      card.append(this.#text(one, name + " response", "response", response));
      const facts = [];
      if (output.status === "complete") facts.push(output.responseTokens + " response tokens");
      if (output.shaped !== null) facts.push(number(output.shaped) + shaping(one));
      if (output.attempts > 1) facts.push(output.attempts + " attempts");
      if (facts.length) card.append(element("p", "lengths", facts.join(" · ")));
      return card;
    }

    #badges(one, group, output, address) {
      const line = element("div", "badges");
      const role = roleOf(group, output);
      if (role) line.append(element("span", "badge " + role, role));
      const policy = policyName(one, output.policy);
      const name = one.kind === "test" ? policy : "sample " + output.index;
      line.append(element("span", "index", name));
      if (output.status !== "complete") {
        line.append(element("span", "badge failed", STATUSES[output.status] || output.status));
      }
      const score = output.score === null ? "no score" : "score " + number(output.score);
      const link = element("a", "link", "#");
      link.href = address;
      link.title = "Link to this sample";
      link.setAttribute("aria-label", "Link to " + name + ", " + ARMS[group.arm]);
      line.append(element("span", "score", score), link);
      return line;
    }

    // --- Text and folds --------------------------------------------------------------------

    #holds(texts) {
      const words = this.view.words;
      return words !== "" && texts.some((text) => text !== null && text.toLowerCase().includes(words));
    }

    // A fold that stays as the reader left it when its card leaves the document and comes back.
    #details(one, name, className, open) {
      const key = one.key + " " + name;
      const details = element("details", className);
      const kept = this.view.open.get(key);
      details.open = kept === undefined ? open : kept;
      details.addEventListener("toggle", () => {
        if (details.open !== open || this.view.open.has(key)) this.view.open.set(key, details.open);
      });
      return details;
    }

    #text(one, name, className, text) {
      const block = element("div", "text " + className);
      block.dir = "auto";
      this.#mark(block, text);
      const long =
        text.length > LONG.characters || text.split("\n", LONG.lines + 1).length > LONG.lines;
      const key = one.key + " " + name;
      if (!long || this.view.open.get(key) || this.#holds([text])) return block;
      block.classList.add("cut");
      const whole = element("div", "cut-text");
      const count = text.length.toLocaleString("en");
      const button = element("button", "more", "Show all " + count + " characters");
      button.type = "button";
      button.addEventListener("click", () => {
        this.view.open.set(key, true);
        block.classList.remove("cut");
        block.tabIndex = -1;
        block.focus({ preventScroll: true });
        button.remove();
      });
      whole.append(block, button);
      return whole;
    }

    // A lower-case copy of another length (it happens with some letters) has other positions, so
    // nothing is marked there.
    #mark(block, text) {
      const words = this.view.words;
      const lower = text.toLowerCase();
      let done = 0;
      if (words && lower.length === text.length) {
        for (let at = lower.indexOf(words); at >= 0; at = lower.indexOf(words, done)) {
          block.append(text.slice(done, at), element("mark", "", text.slice(at, at + words.length)));
          done = at + words.length;
        }
      }
      block.append(text.slice(done));
    }
  };

  // What changed a score before best and worst were taken.
  function shaping(one) {
    return one.priced ? " after the price of its length" : " after length control";
  }

  // Why an output was chosen that the judge did not like best.
  function although(group, chosen) {
    const best = Math.max(...group.outputs.map((output) => output.score ?? -Infinity));
    if (chosen.score >= best) return "";
    const better = group.outputs.find((output) => output.score === best);
    const less = (name, more, own) => (more > own ? [more - own + " " + name + " tokens less"] : []);
    const saved = [
      ...less("thought", better.thoughtTokens, chosen.thoughtTokens),
      ...less("response", better.responseTokens, chosen.responseTokens),
    ];
    const lower = " Chosen although its score is " + number(best - chosen.score) + " lower than that of";
    return lower + " sample " + better.index + ": " + saved.join(", ") + ".";
  }

  function named(one, output) {
    let score = output.score === null ? "no score" : "score " + number(output.score);
    if (output.shaped !== null) score += ", " + number(output.shaped) + shaping(one);
    return "sample " + output.index + " (" + score + ")";
  }
})();
