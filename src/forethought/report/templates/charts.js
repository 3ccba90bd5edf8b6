// Charts, their tables and CSV, the theme. Data: #chart-data, written by page.py.
"use strict";
(function () {
  const charts = JSON.parse(document.getElementById("chart-data").textContent);
  const figures = [...document.querySelectorAll("figure[data-chart]")];
  const shown = new Map(); // chart key -> index of its view
  const live = document.getElementById("live");

  // --- Figures -----------------------------------------------------------------------------

  function cssValue(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  // A string "@name" stands for the CSS variable --name.
  function coloured(value) {
    if (typeof value === "string") {
      return value.startsWith("@") ? cssValue("--" + value.slice(1)) : value;
    }
    if (Array.isArray(value)) return value.map(coloured);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v)]));
    }
    return value;
  }

  function themedLayout(given, narrow) {
    const layout = coloured(given);
    const ink = cssValue("--ink");
    const muted = cssValue("--muted");
    const grid = cssValue("--grid");
    const axis = {
      gridcolor: grid,
      zerolinecolor: cssValue("--zero"),
      linecolor: grid,
      tickcolor: grid,
      dividercolor: grid,
      tickfont: { color: muted, size: 12 },
      automargin: true,
    };
    const merged = (own) => ({
      ...axis,
      ...own,
      title: { ...(own.title || {}), font: { color: muted, size: 12 }, standoff: 10 },
    });
    const showGrid = (own) => ({ showgrid: false, ...own });
    const horizontal = layout.yaxis && layout.yaxis.automargin;
    return {
      ...layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: cssValue("--font"), color: ink, size: 13 },
      margin: { l: narrow ? 44 : 56, r: 12, t: 10, b: 44 },
      hoverlabel: {
        bgcolor: cssValue("--surface"),
        bordercolor: grid,
        font: { family: cssValue("--font"), color: ink, size: 13 },
      },
      hovermode: "closest",
      showlegend: false,
      xaxis: merged(horizontal ? layout.xaxis : showGrid(layout.xaxis)),
      yaxis: merged(horizontal ? showGrid(layout.yaxis) : layout.yaxis),
    };
  }

  function currentView(key) {
    return charts[key].views[shown.get(key) || 0];
  }

  const DASHES = {
    dot: "3 3",
    dash: "6 4",
    dashdot: "7 3 2 3",
    longdash: "10 4",
    longdashdot: "10 3 2 3",
  };
  const MARKERS = {
    circle: "M9 6a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    square: "M9 2h8v8h-8z",
    diamond: "M13 1l5 5l-5 5l-5 -5z",
    "triangle-up": "M13 1.5l4.6 8h-9.2z",
    cross: "M11.5 1.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    x: "M9.5 1.5l3.5 3l3.5 -3l1.5 1.5l-3 3l3 3l-1.5 1.5l-3.5 -3l-3.5 3l-1.5 -1.5l3 -3l-3 -3z",
  };

  // The legend is HTML, so that it wraps on a narrow page and costs the plot nothing.
  function swatch(trace) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const add = (tag, attributes) => {
      const made = document.createElementNS(svg.namespaceURI, tag);
      for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
      svg.append(made);
    };
    const colour = (trace.line || trace.marker).color;
    svg.setAttribute("viewBox", trace.type === "bar" ? "0 0 12 12" : "0 0 26 12");
    svg.setAttribute("aria-hidden", "true");
    svg.style.color = "var(--" + colour.slice(1) + ")";
    if (trace.type === "bar") {
      add("rect", { x: 1, y: 1, width: 10, height: 10, rx: 2, fill: "currentColor" });
      return svg;
    }
    const line = { x1: 0, x2: 26, y1: 6, y2: 6, stroke: "currentColor", "stroke-width": 2.5 };
    if (DASHES[trace.line.dash]) line["stroke-dasharray"] = DASHES[trace.line.dash];
    add("line", line);
    if (!trace.mode.includes("markers")) return svg;
    const open = trace.marker.symbol.endsWith("-open");
    const paint = { fill: open ? "var(--surface)" : "currentColor", stroke: "currentColor" };
    const path = MARKERS[trace.marker.symbol.replace("-open", "")];
    add("path", { d: path, "stroke-width": 1.5, "stroke-linejoin": "round", ...paint });
    return svg;
  }

  function fillLegend(figure, traces) {
    const entries = traces.filter((trace) => trace.showlegend !== false);
    // Grouped horizontal bars are drawn from the bottom up.
    const { barmode, yaxis } = currentView(figure.dataset.chart).layout;
    const upwards = barmode === "group" && yaxis.autorange !== "reversed";
    if (upwards && entries[0].orientation === "h") entries.reverse();
    const items = entries.map((trace) => {
      const item = document.createElement("li");
      item.append(swatch(trace), trace.name);
      return item;
    });
    figure.querySelector(".legend").replaceChildren(...(items.length > 1 ? items : []));
  }

  function draw(figure) {
    const view = currentView(figure.dataset.chart);
    const plot = figure.querySelector(".plot");
    const narrow = plot.clientWidth < 480;
    fillLegend(figure, view.data);
    const config = { displayModeBar: false, responsive: true };
    return Plotly.react(plot, coloured(view.data), themedLayout(view.layout, narrow), config);
  }

  // Charts are drawn when the reader comes near them: the page opens at once. One whose table is
  // shown has no size; it is drawn when it comes back.
  const near = new Set();
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting || near.has(target)) continue;
        near.add(target);
        refresh(target);
      }
    },
    { rootMargin: "600px" }
  );

  function refresh(figure) {
    if (!figure.querySelector(".table").hidden) fillTable(figure);
    else if (near.has(figure) && figure.offsetParent !== null) draw(figure);
  }

  function drawAll() {
    figures.forEach((figure) => near.add(figure));
    figures.forEach(refresh);
  }

  // --- Tables and CSV ----------------------------------------------------------------------

  function cellText(value, column) {
    if (value === null) return "–";
    if (typeof value !== "number") return String(value);
    const digits = column.digits === null ? 0 : column.digits;
    const exact = column.digits === null && !Number.isInteger(value);
    const options = exact
      ? { maximumSignificantDigits: 6 }
      : { minimumFractionDigits: digits, maximumFractionDigits: digits };
    return value.toLocaleString("en", options).replace("-", "\u2212");
  }

  function fillTable(figure) {
    const view = currentView(figure.dataset.chart);
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    for (const column of view.columns) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = column.name;
      head.append(cell);
    }
    const body = table.createTBody();
    for (const row of view.rows) {
      const line = body.insertRow();
      row.forEach((value, index) => {
        const cell = line.insertCell();
        cell.textContent = cellText(value, view.columns[index]);
      });
    }
    view.columns.forEach((_, index) => {
      const numeric = view.rows.some((row) => typeof row[index] === "number");
      if (!numeric) return;
      for (const line of table.rows) line.cells[index].className = "number";
    });
    const place = figure.querySelector(".table");
    place.tabIndex = 0;
    place.replaceChildren(table);
  }

  function csv(view) {
    const quoted = (value) => {
      let text = value === null ? "" : String(value);
      // A spreadsheet would run a name that begins like a formula; a number may begin with "-".
      if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = "'" + text;
      return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
    };
    const lines = [view.columns.map((column) => column.name), ...view.rows];
    return lines.map((row) => row.map(quoted).join(",")).join("\r\n") + "\r\n";
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch (error) {
      // Pages opened from disk have no clipboard in some browsers.
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  }

  function download(text, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function say(button, text) {
    const before = button.textContent;
    button.textContent = text;
    live.textContent = text;
    setTimeout(() => (button.textContent = before), 1200);
  }

  function toggleTable(figure, button) {
    const plot = figure.querySelector(".plot");
    const table = figure.querySelector(".table");
    const toTable = table.hidden;
    table.hidden = !toTable;
    plot.hidden = toTable;
    figure.querySelector(".legend").hidden = toTable;
    button.setAttribute("aria-pressed", String(toTable));
    near.add(figure);
    refresh(figure);
  }

  // --- Wiring ------------------------------------------------------------------------------

  function wireFigure(figure) {
    const key = figure.dataset.chart;
    figure.addEventListener("click", async (event) => {
      const button = event.target.closest("button[data-action]");
      if (!button) return;
      const text = csv(currentView(key));
      if (button.dataset.action === "table") toggleTable(figure, button);
      if (button.dataset.action === "download") download(text, charts[key].file + ".csv");
      if (button.dataset.action === "copy") {
        await copy(text);
        say(button, "Copied");
      }
    });
  }

  function wireViews(select) {
    const section = select.closest("section");
    const show = () => {
      for (const figure of section.querySelectorAll("figure[data-chart]")) {
        const views = charts[figure.dataset.chart].views;
        const index = views.findIndex((view) => view.label === select.value);
        const exists = index >= 0;
        figure.classList.toggle("absent", !exists);
        if (!exists) continue;
        shown.set(figure.dataset.chart, index);
        refresh(figure);
      }
    };
    select.addEventListener("change", show);
    show();
  }

  // Which sides of the navigation go on beyond what is seen.
  function wireNavigation(nav) {
    const look = () => {
      const rest = nav.scrollWidth - nav.clientWidth - nav.scrollLeft;
      const sides = [nav.scrollLeft > 2 && "left", rest > 2 && "right"].filter(Boolean);
      nav.dataset.more = sides.join(" ");
    };
    nav.addEventListener("scroll", look, { passive: true });
    new ResizeObserver(look).observe(nav);
  }

  function setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    figures.forEach(refresh);
  }

  document.getElementById("theme").addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("forethought-theme", theme);
    } catch (error) {
      // The choice then lasts as long as the page.
    }
    document.documentElement.dataset.chosen = "";
    setTheme(theme);
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => {
    // A theme that the reader chose stays.
    if (!("chosen" in document.documentElement.dataset)) setTheme(event.matches ? "dark" : "light");
  });
  // What stands behind a fold was not drawn again while it was closed.
  for (const fold of document.querySelectorAll("details.fold")) {
    fold.addEventListener("toggle", () => {
      if (fold.open) fold.querySelectorAll("figure[data-chart]").forEach(refresh);
    });
  }
  window.addEventListener("beforeprint", drawAll);
  wireNavigation(document.querySelector(".top nav"));
  figures.forEach(wireFigure);
  document.querySelectorAll("select[data-views]").forEach(wireViews);
  for (const figure of figures) {
    if (figure.querySelector(".plot")) observer.observe(figure);
    else fillTable(figure);
  }
})();
