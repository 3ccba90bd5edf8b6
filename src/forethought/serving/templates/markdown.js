// Markdown as elements: headings, lists, code, bold, italic, rules and links. All text goes into text
// nodes and only http and https are linked, so what a model wrote is never markup of the page.
const markdown = (function () {
  const DEEPEST = 8; // what is nested further stays text
  const FENCE = /^ {0,3}(```+|~~~+)[^`]*$/;
  const HEADING = /^ {0,3}(#{1,6}) +(.*)$/;
  const RULE = /^ {0,3}([-*_])(?: *\1){2,} *$/;
  const ITEM = /^( *)([-*+]|\d{1,9}[.)]) +(.*)$/;
  const WORD = /[\p{Script=Latin}\p{N}]/u;

  function made(tag, parent) {
    const element = document.createElement(tag);
    if (parent) parent.append(element);
    return element;
  }

  // --- Within a line ------------------------------------------------------------------------

  function inline(parent, text, depth) {
    let plain = "";
    let at = 0;
    while (at < text.length) {
      const found = depth < DEEPEST ? span(text, at, depth) : null;
      if (found === null) {
        plain += text[at++];
        continue;
      }
      parent.append(plain, found.node);
      plain = "";
      at = found.end;
    }
    parent.append(plain);
  }

  // What begins at a place, as a node, and where the text goes on; `null` for plain text.
  function span(text, at, depth) {
    const first = text[at];
    if (first === "`") return code(text, at);
    if (first === "*" || first === "_") return emphasis(text, at, depth);
    if (first === "[") return link(text, at, depth);
    if (first === "\\" && "\\`*_".includes(text[at + 1] || " ")) return { node: text[at + 1], end: at + 2 };
    return null;
  }

  function runFrom(text, at) {
    let end = at;
    while (text[end] === text[at]) end++;
    return end;
  }

  function code(text, at) {
    const from = runFrom(text, at);
    const mark = text.slice(at, from);
    for (let close = text.indexOf(mark, from); close >= 0; ) {
      const end = runFrom(text, close);
      if (end - close === mark.length) {
        const node = made("code");
        node.textContent = text.slice(from, close);
        return { node, end };
      }
      close = text.indexOf(mark, end);
    }
    return { node: mark, end: from };
  }

  function emphasis(text, at, depth) {
    const letter = text[at];
    const mark = text[at + 1] === letter ? letter + letter : letter;
    const from = at + mark.length;
    if (/^\s?$/.test(text[from] || "")) return null;
    // Not within a word such as snake_case, nor in 2*3*4.
    const word = (place) => WORD.test(text[place] || " ");
    if (word(at - 1)) return null;
    for (let close = text.indexOf(mark, from + 1); close >= 0; ) {
      const end = runFrom(text, close);
      const fits = mark.length === 1 ? end - close !== 2 : true;
      if (fits && !/\s/.test(text[close - 1]) && !word(end)) {
        const node = made(mark.length === 1 ? "em" : "strong");
        inline(node, text.slice(from, end - mark.length), depth + 1);
        return { node, end };
      }
      close = text.indexOf(mark, end);
    }
    return null;
  }

  function link(text, at, depth) {
    const middle = text.indexOf("](", at);
    const words = middle < 0 ? "" : text.slice(at + 1, middle);
    if (!words.trim() || words.includes("[")) return null;
    let open = 1;
    let end = middle + 2;
    for (; end < text.length && open && !/\s/.test(text[end]); end++) {
      if (text[end] === "(") open++;
      if (text[end] === ")") open--;
    }
    const address = open ? null : webAddress(text.slice(middle + 2, end - 1));
    if (address === null) return null;
    const node = made("a");
    node.href = address;
    node.rel = "noopener noreferrer";
    node.target = "_blank";
    // The words may say anything.
    node.title = address;
    inline(node, words, depth + 1);
    return { node, end };
  }

  function webAddress(text) {
    try {
      const { protocol, href } = new URL(text);
      return ["http:", "https:"].includes(protocol) ? href : null;
    } catch (error) {
      return null; // not a whole address
    }
  }

  // --- Lines --------------------------------------------------------------------------------

  const indent = (line) => line.length - line.trimStart().length;

  function blocks(parent, lines, depth) {
    let paragraph = [];
    const endParagraph = () => {
      if (paragraph.length) inline(made("p", parent), paragraph.join("\n"), 0);
      paragraph = [];
    };
    for (let at = 0; at < lines.length; ) {
      const line = lines[at];
      const heading = HEADING.exec(line);
      const fence = FENCE.exec(line);
      const rule = RULE.test(line);
      const item = depth < DEEPEST && !rule && ITEM.test(line);
      if (heading || fence || rule || item || !line.trim()) endParagraph();
      if (item) {
        at = list(parent, lines, at, depth);
        continue;
      }
      at++;
      // The page's own heading is the first.
      if (heading) inline(made("h" + Math.min(heading[1].length + 1, 6), parent), heading[2], 0);
      else if (fence) at = fenced(parent, lines, at, fence[1]);
      else if (rule) made("hr", parent);
      else if (line.trim()) paragraph.push(line);
    }
    endParagraph();
  }

  // Code up to the fence that ends it, or to the end while it is being written.
  function fenced(parent, lines, from, fence) {
    const closes = (mark) => mark.startsWith(fence) && runFrom(mark, 0) === mark.length;
    let end = from;
    while (end < lines.length && !closes(lines[end].trim())) end++;
    const block = made("pre", parent);
    block.tabIndex = 0;
    made("code", block).textContent = lines.slice(from, end).join("\n");
    return end + 1;
  }

  // Items of one kind and indent; returns the line after them.
  function list(parent, lines, from, depth) {
    const [, lead, mark] = ITEM.exec(lines[from]);
    const ordered = mark.length > 1;
    const element = made(ordered ? "ol" : "ul", parent);
    if (ordered) element.start = parseInt(mark, 10);
    let at = from;
    for (;;) {
      const item = ITEM.exec(lines[at] || "");
      const same = item && item[1].length === lead.length && item[2].length > 1 === ordered;
      if (!same || RULE.test(lines[at])) return at;
      const width = item[1].length + item[2].length + 1;
      const own = [item[3]];
      let blank = 0;
      for (at++; at < lines.length; at++) {
        if (!lines[at].trim()) {
          blank++;
          continue;
        }
        if (indent(lines[at]) <= lead.length) break;
        own.push(...Array(blank).fill(""), lines[at].slice(Math.min(indent(lines[at]), width)));
        blank = 0;
      }
      blocks(made("li", element), own, depth + 1);
    }
  }

  // Show the text in `place`; blocks that have not changed stay, and with them a reader's selection.
  return function show(place, text) {
    const fresh = made("div");
    blocks(fresh, text.split("\n"), 0);
    const nodes = [...fresh.childNodes];
    nodes.forEach((node, index) => {
      const old = place.childNodes[index];
      if (!old) place.append(node);
      else if (!old.isEqualNode(node)) old.replaceWith(node);
    });
    while (place.childNodes.length > nodes.length) place.lastChild.remove();
  };
})();
