// Samples: the index of numbers at once, texts in pieces that are unpacked when they are needed.
// Data: #sample-data, written by samples.py and sample_pieces.py.
const sampleBrowser = {};
(function () {
  // Characters of text that stay unpacked; beyond that the piece used longest ago is dropped.
  const BUDGET = 150e6;
  const SLICE = 24; // milliseconds of searching before the page may draw and take keys

  function bytesOf(base64) {
    const binary = atob(base64);
    const bytes = new Uint8Array(binary.length);
    for (let at = 0; at < binary.length; at++) bytes[at] = binary.charCodeAt(at);
    return bytes;
  }

  // A string is packed data; a URL object says where to fetch it from.
  async function unpack(source) {
    let bytes;
    if (source instanceof URL) {
      const reply = await fetch(source);
      if (!reply.ok) throw new Error("the server answered " + reply.status);
      bytes = await reply.arrayBuffer();
    } else {
      bytes = bytesOf(source);
    }
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).json();
  }

  function breathe() {
    return new Promise((resolve) => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => resolve();
      channel.port2.postMessage(0);
    });
  }

  function outputOf(arm, row, number) {
    return {
      arm,
      policy: row[0],
      index: row[1],
      status: row[2],
      thoughtTokens: row[3],
      responseTokens: row[4],
      score: row[5],
      shaped: row[6],
      attempts: row[7],
      number, // its place among all outputs
    };
  }

  sampleBrowser.Store = class {
    constructor(data) {
      this.outcomes = data.outcomes;
      this.runs = data.runs;
      this.cases = [];
      this.outputs = 0;
      this.pieces = [];
      this.kept = new Set(); // unpacked pieces, the one used longest ago first
      this.size = 0;
      this.last = null; // the last complete search
    }

    async open() {
      for (const run of this.runs) {
        const at = (name) => new URL(run.at + name, location.href);
        const index = await unpack(run.at ? at("index") : run.index);
        let first = this.cases.length;
        index.counts.forEach((count, number) => {
          const source = run.at ? at(String(number)) : run.pieces[number];
          this.pieces.push({ source, first, count, texts: null, loading: null });
          first += count;
        });
        let piece = this.pieces.length - index.counts.length;
        for (const [kind, prompt, category, groups] of index.cases) {
          while (this.cases.length >= this.pieces[piece].first + this.pieces[piece].count) piece++;
          this.cases.push(this.#case(run.name, kind, prompt, category, groups, piece));
          this.cases[this.cases.length - 1].priced = index.priced;
        }
      }
    }

    #case(run, kind, prompt, category, groups, piece) {
      const made = { run, kind, prompt, category: category || "(none)", piece };
      made.place = this.cases.length;
      made.key = [run, kind, prompt].join("/");
      made.groups = groups.map(([arm, iteration, outcome, chosen, rejected, margin, rows]) => ({
        arm,
        iteration,
        outcome,
        chosen,
        rejected,
        margin,
        outputs: rows.map((row) => outputOf(arm, row, this.outputs++)),
      }));
      return made;
    }

    // The part of an address that names a prompt, or one of its outputs.
    address(one, group, output) {
      const words = [one.kind, one.prompt];
      if (output) words.push(group.arm, output.policy, output.index);
      const run = this.runs.length > 1 ? "&run=" + encodeURIComponent(one.run) : "";
      return "#sample=" + words.map(encodeURIComponent).join("/") + run;
    }

    // The prompt, and the group and output, that such a part names: `null` where it is none, a
    // prompt of `undefined` where this page does not have it.
    named(address) {
      const given = new URLSearchParams(address.slice(1));
      if (!given.has("sample")) return null;
      const [kind, prompt, arm, policy, index] = given.get("sample").split("/");
      const run = this.runs.length > 1 ? given.get("run") : this.runs[0].name;
      const one = this.cases.find((other) => other.key === [run, kind, prompt].join("/"));
      for (const group of one ? one.groups : []) {
        for (const output of group.outputs) {
          const own = [group.arm, String(output.policy), String(output.index)];
          if (own.join() === [arm, policy, index].join()) return { one, group, output };
        }
      }
      return { one: arm === undefined ? one : undefined };
    }

    // Texts of a case if they are unpacked.
    texts(one) {
      const piece = this.pieces[one.piece];
      return piece.texts && piece.texts.cases[one.place - piece.first];
    }

    string(one, place) {
      return place < 0 ? null : this.pieces[one.piece].texts.strings[place];
    }

    async load(number) {
      const piece = this.pieces[number];
      this.kept.delete(number);
      this.kept.add(number);
      if (piece.texts) return piece.texts;
      if (!piece.loading) piece.loading = unpack(piece.source).finally(() => (piece.loading = null));
      const texts = await piece.loading;
      if (piece.texts) return piece.texts;
      this.kept.add(number);
      piece.texts = texts;
      piece.size = texts.strings.reduce((sum, text) => sum + text.length, 0);
      this.size += piece.size;
      for (const old of this.kept) {
        if (this.size <= BUDGET || old === number) break;
        this.#drop(old);
      }
      return texts;
    }

    #drop(number) {
      const piece = this.pieces[number];
      this.kept.delete(number);
      if (!piece.texts) return;
      this.size -= piece.size;
      piece.texts = null;
    }

    // Unpack what fits while the reader does nothing, so that the first search is quick too.
    async prepare() {
      const idle = window.requestIdleCallback || ((call) => setTimeout(call, 30));
      for (let number = 0; number < this.pieces.length && this.size < BUDGET; number++) {
        await new Promise((resolve) => idle(resolve, { timeout: 500 }));
        lowered(await this.load(number));
      }
    }

    // Which prompts, and which outputs, hold the words; `null` if `stale()` says another search
    // has begun. A longer word is looked for only where the shorter one was.
    async search(words, stale) {
      const found = {
        words,
        cases: new Uint8Array(this.cases.length),
        outputs: new Uint8Array(this.outputs),
        pieces: new Uint8Array(this.pieces.length),
      };
      const before = this.last && words.includes(this.last.words) ? this.last.pieces : null;
      let started = performance.now();
      for (let number = 0; number < this.pieces.length; number++) {
        if (before && !before[number]) continue;
        const piece = this.pieces[number];
        const texts = await this.load(number);
        if (this.#searchPiece(piece, texts, words, found)) found.pieces[number] = 1;
        if (performance.now() - started > SLICE) {
          await breathe();
          started = performance.now();
        }
        if (stale()) return null;
      }
      this.last = found;
      return found;
    }

    #searchPiece(piece, texts, words, found) {
      const hits = lowered(texts).map((text) => text.includes(words));
      let any = false;
      texts.cases.forEach(([messages, , groups], offset) => {
        const one = this.cases[piece.first + offset];
        if (one.prompt.includes(words) || messages.some(([, place]) => hits[place])) {
          found.cases[one.place] = 1;
          any = true;
        }
        groups.forEach(([, , outputs], group) => {
          outputs.forEach(([thought, text], index) => {
            if (!hits[text] && !(thought >= 0 && hits[thought])) return;
            found.outputs[one.groups[group].outputs[index].number] = 1;
            any = true;
          });
        });
      });
      return any;
    }
  };

  function lowered(texts) {
    if (!texts.lower) texts.lower = texts.strings.map((text) => text.toLowerCase());
    return texts.lower;
  }
})();
