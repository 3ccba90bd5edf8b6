// Runs before the page is drawn, so that a stored choice of theme does not flash.
"use strict";
(function () {
  let stored = null;
  try {
    stored = localStorage.getItem("forethought-theme");
  } catch (error) {
    // Storage may be forbidden for files; the system's preference remains.
  }
  const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
  const root = document.documentElement;
  root.dataset.theme = stored || (dark ? "dark" : "light");
  if (stored) root.dataset.chosen = "";
})();
