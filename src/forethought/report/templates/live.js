// The live view: asks now and then whether something new is there, and loads the page again while
// the reader does nothing. What the reader chose is kept over the reload.
"use strict";
(function () {
  const POLL = 3000;
  const IDLE = 8000; // milliseconds without a key or a movement
  const APART = 15000; // milliseconds between two reloads that nobody asked for
  const KEY = "forethought-view";
  const note = JSON.parse(document.getElementById("view-data").textContent);
  const bar = document.querySelector(".view-bar");
  const text = document.getElementById("view-text");
  const button = document.getElementById("view-refresh");
  const alone = document.getElementById("view-alone");
  const loaded = performance.now();
  const at = new Date().toLocaleTimeString([], { hour12: false });
  let active = loaded;
  let fresh = false; // whether something new is there

  // The token has become a cookie; it need not stay in the address.
  if (location.search) history.replaceState(null, "", location.pathname + location.hash);

  // --- What the reader chose ----------------------------------------------------------------

  const selects = () => [...document.querySelectorAll("select[data-views]")];
  const browser = () => (typeof sampleBrowser === "undefined" ? null : sampleBrowser);

  function save() {
    const state = {
      top: window.scrollY,
      hash: location.hash,
      alone: alone.checked,
      views: selects().map((one) => [one.closest("section").id, one.value, one.selectedIndex + 1 === one.length]),
      samples: browser() && browser().state ? browser().state() : null,
    };
    try {
      sessionStorage.setItem(KEY, JSON.stringify(state));
    } catch (error) {
      // Storage may be forbidden; the page then begins anew.
    }
  }

  async function restore() {
    let state = null;
    try {
      state = JSON.parse(sessionStorage.getItem(KEY));
    } catch (error) {
      return;
    }
    if (!state) return;
    history.scrollRestoration = "manual";
    alone.checked = state.alone;
    for (const [id, value, last] of state.views) {
      const select = document.querySelector("#" + CSS.escape(id) + " select[data-views]");
      // Who looked at the latest iteration wants to see the latest.
      if (!select || last || ![...select.options].some((one) => one.value === value)) continue;
      select.value = value;
      select.dispatchEvent(new Event("change"));
    }
    // An address that names another sample was opened meanwhile.
    if (state.hash !== location.hash) return;
    const scroll = () => window.scrollTo({ top: state.top, behavior: "instant" });
    scroll();
    if (state.samples && browser() && browser().restore) await browser().restore(state.samples);
    scroll();
  }

  // --- New data -----------------------------------------------------------------------------

  function inView(element) {
    if (!element) return false;
    const { top, bottom } = element.getBoundingClientRect();
    return top < window.innerHeight && bottom > 0;
  }

  // Someone who types, has marked text or reads samples is not to be disturbed.
  function mayReload() {
    const now = performance.now();
    if (!alone.checked || document.hidden || now - loaded < APART) return false;
    const focus = document.activeElement;
    return (
      now - active > IDLE &&
      !(focus && focus.matches("input:not([type=checkbox]), select, textarea")) &&
      String(document.getSelection()) === "" &&
      !inView(document.getElementById("cases"))
    );
  }

  function tell(words, trouble) {
    if (text.textContent !== words) text.textContent = words;
    bar.classList.toggle("trouble", trouble);
  }

  async function poll() {
    try {
      const reply = await fetch("state", { cache: "no-store" });
      if (reply.status === 403) throw new Error("the view was started again; open its new address");
      if (!reply.ok) throw new Error("the view answered " + reply.status);
      fresh = (await reply.json()).state !== note.state;
      if (note.error) tell("The run could not be read (" + note.error + "). Trying again.", true);
      else tell(fresh ? "new data" : "live, as of " + at, false);
    } catch (error) {
      const gone = error instanceof TypeError;
      tell(gone ? "The view has ended; this page stays as it is." : error.message, true);
    }
    button.hidden = !fresh;
    if (fresh && mayReload()) location.reload();
    else setTimeout(poll, POLL);
  }

  for (const kind of ["keydown", "pointerdown", "pointermove", "wheel", "touchmove", "scroll"]) {
    window.addEventListener(kind, () => (active = performance.now()), { passive: true, capture: true });
  }
  button.addEventListener("click", () => location.reload());
  window.addEventListener("pagehide", save);
  restore().finally(poll);
})();
