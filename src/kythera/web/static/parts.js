// Parts of a study that are read when they come into view, and again when there is news.

import { get } from "./api.js";
import { h, keyed, put, svg } from "./dom.js";
import { count, measured, number } from "./format.js";
import { frame, show } from "./plot.js";

const PAUSE = 3000; // milliseconds between two readings of one part

// A part knows whether it can be seen and whether it is up to date.
export function part(section, read, { closed = false, pause = PAUSE } = {}) {
  const found = { isNear: false, isKnown: false, isStale: false, timer: 0, last: 0 };
  const trouble = h("p", { class: "note", hidden: true });
  section.append(trouble);
  const details = closed && h("details", {}, h("summary", {}, closed), section.body);
  if (details) {
    section.append(details);
    details.addEventListener("toggle", () => refresh());
  }
  new IntersectionObserver((entries) => {
    found.isNear = entries.some((e) => e.isIntersecting);
    refresh();
  }, { rootMargin: "200px" }).observe(section);

  async function refresh() {
    if (!found.isStale || !found.isNear || (details && !details.open) || found.timer) return;
    found.timer = setTimeout(async () => {
      found.isStale = false;
      found.last = performance.now();
      try {
        await read();
        trouble.hidden = true;
      } catch (error) {
        // Of a lost server or store the loop of the page tells, and this is tried again.
        found.isStale = !error.status || error.status === 503;
        trouble.hidden = found.isStale;
        put(trouble, error.message);
      }
      found.timer = 0;
      if (found.isStale) setTimeout(refresh, pause);
    }, Math.max(0, found.last ? found.last + pause - performance.now() : 0));
  }
  const fresh = () => { found.isKnown = found.isStale = true; refresh(); };
  return { fresh, turn: () => found.isKnown && fresh() };
}

// Terms or constraints: a table of start and best, and their curves.
export function numbers(section) {
  const isSlack = section.firstChild.textContent === "Constraints";
  const body = h("tbody"), last = h("th", { scope: "col", class: "n" });
  const head = h("tr", {}, h("th", { scope: "col" }, isSlack ? "constraint" : "term"), h("th", { scope: "col", class: "n" }, "start"), last,
    isSlack ? h("th", { scope: "col" }, "design") : h("th", { scope: "col", class: "n" }, "weight"));
  const curves = frame(section.firstChild.textContent, 340);
  section.body.append(h("table", { class: "cards" }, h("thead", {}, head), body), curves);
  return (rows, figure, facts) => {
    section.hidden = !rows.length;
    put(last, facts.finished ? "best" : "last trial");
    const make = () => h("tr", {}, h("td"), h("td", { class: "n", "data-title": "start" }), h("td", { class: "n" }),
      h("td", { class: isSlack ? "" : "n", "data-title": isSlack ? "design" : "weight" }));
    keyed(body, rows, (row) => row.name, make, (line, row) => {
      line.children[2].dataset.title = last.textContent;
      put(line.children[0], row.name);
      put(line.children[1], measured(row.start));
      put(line.children[2], measured(row.best));
      if (isSlack) verdict(line.children[3], row.best);
      else put(line.children[3], String(facts.weights[row.name] ?? 1));
    });
    curves.hidden = !figure;
    if (figure) show(curves, figure);
  };
}

function verdict(cell, slack) {
  const broken = slack && slack.value < 0;
  cell.className = slack ? (broken ? "broken" : "holds") : "";
  const doubt = broken && slack.stderr > 0 && slack.value + 2 * slack.stderr >= 0;
  put(cell, slack ? (broken ? `broken${doubt ? ", within its error" : ""}` : "holds") : "");
}

export function parameters(section, state) {
  const input = h("input", { type: "search", id: "find", maxlength: 200, autocomplete: "off" });
  const search = h("p", { class: "filter", hidden: true }, h("label", { for: "find" }, "Filter by name"), input);
  const note = h("p", { class: "note", role: "status" });
  const best = h("th", { scope: "col", class: "n" });
  const body = h("tbody");
  const table = h("table", { class: "parameters" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "parameter"), h("th", { scope: "col", class: "n" }, "start"), best,
    h("th", { scope: "col" }, "unit"), h("th", { scope: "col", class: "n bounds" }, "bounds"), h("th", { class: "range", "aria-hidden": "true" }, "range"))), body);
  section.body.append(search, note, h("div", { class: "tall", tabindex: 0, role: "region", "aria-label": "Table of parameters" }, table),
    h("p", { class: "note key" }, "Range: hollow where it started, filled where it is now."));
  let timer;
  input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(read, 200); });

  async function read() {
    const word = input.value;
    const data = await get(`${state.base}/parameters?find=${encodeURIComponent(word)}`);
    if (word !== input.value) return;
    put(best, state.header?.run.gain ? "best" : "now");
    search.hidden = data.total <= 30;
    const cut = data.found > data.rows.length;
    put(note, cut ? `${count(data.rows.length)} of ${count(data.found)} parameters, those that moved most.`
      : word ? `${count(data.found)} of ${count(data.total)} parameters.` : "");
    keyed(body, data.rows, (row) => row.name, makeRow, (line, row) => {
      const bounds = row.bounds ? `${number(row.bounds[0])} to ${number(row.bounds[1])}` : "";
      [row.name, number(row.start), number(row.best), row.unit, bounds].forEach((text, i) => put(line.children[i], text));
      line.firstChild.title = row.name;
      mark(line.lastChild.firstChild, row.cube);
    });
  }
  return part(section, read);
}

function makeRow() {
  const picture = svg("svg", { viewBox: "0 0 160 16", width: 160, height: 16, "aria-hidden": "true" },
    svg("path", { d: "M8 8H152M8 4V12M152 4V12", class: "rule" }), svg("path", { class: "way" }),
    svg("circle", { cy: 8, r: 4, class: "from" }), svg("circle", { cy: 8, r: 4.4, class: "to" }));
  return h("tr", {}, h("td", { class: "name" }), h("td", { class: "n" }), h("td", { class: "n" }), h("td"), h("td", { class: "n bounds" }), h("td", { class: "range" }, picture));
}

function mark(picture, cube) {
  picture.classList.toggle("off", !cube);
  if (!cube) return;
  const [a, b] = cube.map((u) => (8 + 144 * u).toFixed(1));
  picture.children[1].setAttribute("d", `M${a} 8H${b}`);
  picture.children[2].setAttribute("cx", a);
  picture.children[3].setAttribute("cx", b);
}

export function front(section, state) {
  const chosen = { x: "", y: "" };
  const choice = (axis, label) => {
    const select = h("select", { id: `front-${axis}` });
    select.addEventListener("change", () => {
      const other = axis === "x" ? ys : xs;
      if (other.value === select.value) other.value = [...other.options].find((o) => o.value !== select.value).value;
      Object.assign(chosen, { x: xs.value, y: ys.value });
      read();
    });
    return [h("label", { for: `front-${axis}` }, label), select];
  };
  const [xLabel, xs] = choice("x", "Across"), [yLabel, ys] = choice("y", "Up");
  const choices = h("p", { class: "filter", hidden: true }, xLabel, xs, yLabel, ys);
  const picture = frame("Pareto front", 420);
  section.body.append(choices, picture);
  section.hidden = true;

  async function read() {
    const query = `x=${encodeURIComponent(chosen.x)}&y=${encodeURIComponent(chosen.y)}`;
    const data = await get(`${state.base}/front?${query}`);
    if (!data.figure) return;
    choices.hidden = data.terms.length < 3;
    if (xs.options.length !== data.terms.length)
      for (const [select, i] of [[xs, 0], [ys, 1]]) {
        select.replaceChildren(...data.terms.map((t) => h("option", { value: t }, t)));
        select.selectedIndex = i;
      }
    show(picture, data.figure);
  }
  const found = part(section, read);
  return { fresh: (data) => { section.hidden = data.facts.terms.length < 2; found.fresh(); } };
}

// Several figures by name; those of the last reading stay where they were.
export function gallery(place, label) {
  return (figures) => {
    const items = Object.entries(figures);
    keyed(place, items, ([name]) => name, ([name, figure]) => {
      const element = frame(`${label} ${name}`, figure.layout?.height || 300);
      element.prepend(h("h3", {}, name.replaceAll("_", " ")));
      return element;
    }, (element, [, figure]) => show(element, figure));
  };
}

export function paths(section, state) {
  const grid = h("div", { class: "grid" }), note = h("p", { class: "note" }), fill = gallery(grid, "Path of");
  section.body.append(note, grid);
  return part(section, async () => {
    const data = await get(`${state.base}/paths?axis=${state.axis}`);
    const shown = Object.keys(data.figures).length;
    put(note, shown < data.groups ? `${shown} of ${count(data.groups)} groups, those that moved most.` : "");
    fill(data.figures);
  }, { closed: "Show the way of each parameter through the search" });
}

export function metrics(section, state) {
  const grid = h("div", { class: "grid" }), fill = gallery(grid, "Metric");
  section.body.append(grid);
  section.classList.add("folded"); // until there is one
  return part(section, async () => {
    const data = await get(`${state.base}/metrics`);
    section.classList.toggle("folded", !Object.keys(data.figures).length);
    fill(data.figures);
  });
}

export function landscape(section, state) {
  const grid = h("div", { class: "grid" }), text = h("pre", { tabindex: 0 }), fill = gallery(grid, "Landscape:");
  section.body.append(text, grid);
  return part(section, async () => {
    const data = await get(`${state.base}/landscape`);
    put(text, data.text.replaceAll("+-", "±"));
    fill(data.figures);
  }, { closed: "Which designs are as good as the best one, and which directions are loose", pause: 20000 });
}

export function failures(section, state) {
  const note = h("p"), body = h("tbody");
  const table = h("table", { class: "cards" }, h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "n" }, "trials"),
    h("th", { scope: "col" }, "cause"), h("th", { scope: "col" }, "such as trial"))), body);
  section.body.append(note, table);
  section.hidden = true;
  const found = part(section, async () => {
    const data = await get(`${state.base}/failures`);
    put(note, `${count(data.failed)} of ${count(data.trials)} trials failed. Causes that differ only in their numbers are one.${
      data.more ? ` ${count(data.more)} rarer causes are not shown.` : ""}`);
    keyed(body, data.causes, (c) => c.cause, () => h("tr", {}, h("td", { class: "n", "data-title": "trials" }), h("td", { class: "cause" }), h("td", { "data-title": "such as" })), (line, c) => {
      [count(c.count), c.cause, c.trials.join(", ") + (c.count > c.trials.length ? ", …" : "")].forEach((text, i) => put(line.children[i], text));
    });
  });
  return { fresh: (data) => { section.hidden = !data.facts.failed; found.fresh(); } };
}
