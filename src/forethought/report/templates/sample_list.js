// A list of any length of which only the visible part is in the document. Heights differ and are
// measured; what is not measured yet counts as the mean of what is.
(function () {
  const FIRST_GUESS = 460;
  const BEYOND = 700; // pixels above and below the box that are kept ready
  const LINE = 60;

  sampleBrowser.List = class {
    // `make(item)` gives the element of an item; `item.key` names it.
    constructor(box, make) {
      this.box = box;
      this.make = make;
      this.items = [];
      this.heights = new Map(); // key -> measured height
      this.sum = 0;
      this.offsets = new Float64Array(1);
      this.shown = new Map(); // index -> element
      this.toEnd = false;
      this.space = document.createElement("div");
      this.space.className = "space";
      box.append(this.space);
      this.observer = new ResizeObserver((entries) => this.#measured(entries));
      this.width = box.clientWidth;
      new ResizeObserver(() => this.#resized()).observe(box);
      box.addEventListener("scroll", () => this.draw(), { passive: true });
      box.addEventListener("keydown", (event) => this.#key(event));
      for (const kind of ["wheel", "touchstart", "pointerdown"]) {
        box.addEventListener(kind, () => (this.toEnd = false), { passive: true });
      }
    }

    setItems(items) {
      this.items = items;
      this.#clear();
      this.#place();
      this.box.scrollTop = 0;
      this.draw();
    }

    // Make every visible element again, such as for another layout.
    remake() {
      const anchor = this.anchor();
      this.heights.clear();
      this.sum = 0;
      this.#clear();
      this.#place();
      this.goTo(anchor);
    }

    // The first visible item and how far it is scrolled out.
    anchor() {
      if (!this.items.length) return null;
      const index = this.#indexAt(this.box.scrollTop);
      return { key: this.items[index].key, by: this.box.scrollTop - this.offsets[index] };
    }

    goTo(anchor) {
      const index = anchor ? this.items.findIndex((item) => item.key === anchor.key) : -1;
      if (index >= 0) this.box.scrollTop = this.offsets[index] + anchor.by;
      this.draw();
    }

    draw() {
      const top = this.box.scrollTop;
      const first = this.#indexAt(top - BEYOND);
      const last = Math.min(this.items.length - 1, this.#indexAt(top + this.box.clientHeight + BEYOND));
      for (const [index, element] of this.shown) {
        if (index >= first && index <= last) continue;
        // Removing what has the focus would throw the reader back to the page's start.
        if (element.contains(document.activeElement)) continue;
        this.observer.unobserve(element);
        element.remove();
        this.shown.delete(index);
      }
      for (let index = first; index <= last && index < this.items.length; index++) {
        if (!this.shown.has(index)) this.#insert(index);
      }
    }

    #insert(index) {
      const element = this.make(this.items[index]);
      element.setAttribute("aria-posinset", String(index + 1));
      element.setAttribute("aria-setsize", String(this.items.length));
      element.style.top = this.offsets[index] + "px";
      element.dataset.index = String(index);
      const later = [...this.shown.keys()].filter((other) => other > index);
      const next = later.length ? this.shown.get(Math.min(...later)) : null;
      this.space.insertBefore(element, next);
      this.shown.set(index, element);
      this.observer.observe(element);
    }

    #clear() {
      for (const element of this.shown.values()) element.remove();
      this.observer.disconnect();
      this.shown.clear();
    }

    #place() {
      const guess = this.heights.size ? this.sum / this.heights.size : FIRST_GUESS;
      const offsets = new Float64Array(this.items.length + 1);
      this.items.forEach((item, index) => {
        offsets[index + 1] = offsets[index] + (this.heights.get(item.key) || guess);
      });
      this.offsets = offsets;
      this.space.style.height = offsets[this.items.length] + "px";
      for (const [index, element] of this.shown) element.style.top = offsets[index] + "px";
    }

    // The item at a height; always within the list.
    #indexAt(height) {
      let low = 0;
      let high = Math.max(0, this.items.length - 1);
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if (this.offsets[middle] <= height) low = middle;
        else high = middle - 1;
      }
      return low;
    }

    #measured(entries) {
      let changed = false;
      for (const entry of entries) {
        const item = this.items[Number(entry.target.dataset.index)];
        const height = entry.borderBoxSize[0].blockSize;
        const before = this.heights.get(item.key);
        if (!entry.target.isConnected || !height || before === height) continue;
        this.sum += height - (before || 0);
        this.heights.set(item.key, height);
        changed = true;
      }
      if (!changed) return;
      // What the reader looks at stays where it is.
      const anchor = this.box.scrollTop > 0 ? this.#standing() : null;
      this.#place();
      if (this.toEnd) this.box.scrollTop = this.box.scrollHeight;
      else if (anchor) this.box.scrollTop = this.offsets[anchor.index] + anchor.by;
      this.draw();
    }

    #standing() {
      const index = this.#indexAt(this.box.scrollTop);
      return { index, by: this.box.scrollTop - this.offsets[index] };
    }

    #resized() {
      if (this.box.clientWidth !== this.width) {
        this.width = this.box.clientWidth;
        const anchor = this.anchor();
        this.heights.clear();
        this.sum = 0;
        for (const [index, element] of this.shown) {
          this.heights.set(this.items[index].key, element.offsetHeight);
          this.sum += element.offsetHeight;
        }
        this.#place();
        this.goTo(anchor);
      }
      this.draw();
    }

    #key(event) {
      if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey) return;
      const page = this.box.clientHeight - LINE;
      const steps = { ArrowDown: LINE, ArrowUp: -LINE, PageDown: page, PageUp: -page };
      if (event.key in steps) {
        this.toEnd = false;
        this.box.scrollTop += steps[event.key];
      } else if (event.key === "Home" || event.key === "End") {
        this.toEnd = event.key === "End";
        this.box.scrollTop = this.toEnd ? this.box.scrollHeight : 0;
      } else {
        return;
      }
      event.preventDefault();
      this.draw();
    }
  };
})();
