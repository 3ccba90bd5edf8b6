// Which of several runs is shown. Charts of the others are drawn when their run is.
"use strict";
(function () {
  const select = document.getElementById("run-select");
  if (!select) return;
  const blocks = [...document.querySelectorAll("[data-run]")];

  function show(index) {
    blocks.forEach((block, at) => (block.hidden = at !== index));
    select.value = String(index);
  }

  // An address may name a part of a run that is not shown.
  function follow() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const block = target && target.closest("[data-run]");
    if (!block) return;
    show(blocks.indexOf(block));
    target.scrollIntoView();
  }

  select.addEventListener("change", () => show(Number(select.value)));
  window.addEventListener("hashchange", follow);
  follow();
})();
