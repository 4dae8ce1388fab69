// Several runs side by side: their losses in one picture, their numbers in one table.

import { at, get, root, watch } from "./api.js";
import { h, keyed, put } from "./dom.js";
import { count, duration, measured, money, short } from "./format.js";
import { frame, show } from "./plot.js";
import { axisChoice } from "./study.js";
import { pill } from "./studies.js";

const COLUMNS = ["State", "Engine", "Gain", "Best", "Trials", "Events", "Time", "CPU time", "Cost"];

export function compare(content) {
  const of = new URLSearchParams(location.search).getAll("of");
  const state = { axis: "events" };
  const picture = frame("Loss of the runs", 440), body = h("tbody"), note = h("p", { class: "note warn", hidden: true });
  const table = h("table", { class: "cards", "aria-label": "Runs that are compared" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Run"),
    ...COLUMNS.map((title) => h("th", { scope: "col", class: ["State", "Engine"].includes(title) ? "" : "n" }, title)))), body);
  const crumbs = h("p", { class: "crumbs" }, h("a", { href: root.href }, "All studies"));
  if (!of.length) {
    content.replaceChildren(crumbs, h("h1", {}, "Comparison"), h("div", { class: "empty" }, h("h2", {}, "Nothing chosen"),
      h("p", {}, "Tick two or more runs in the list of studies, then “Compare”.")));
    return;
  }
  const axes = axisChoice(state, () => again());
  content.replaceChildren(crumbs, h("h1", {}, "Comparison"), note, h("section", {}, axes, picture), h("section", {}, table));

  const again = watch(async () => {
    const data = await get(`api/compare?${of.map((o) => `of=${encodeURIComponent(o)}`).join("&")}&axis=${state.axis}`);
    picture.hidden = !data.figure;
    if (data.figure) show(picture, data.figure);
    note.hidden = !data.why;
    put(note, data.why);
    keyed(body, data.runs, (r) => r.of, makeRow, update);
    return data.runs.some((r) => r.run.state === "running") ? 2 : 10;
  });
}

function makeRow(item) {
  const row = h("tr", {}, h("td", {}, h("a", { href: at(`studies/${item.id}?run=${item.run.number}`) })),
    ...COLUMNS.map((title) => h("td", { class: ["State", "Engine"].includes(title) ? "" : "n", "data-title": title })));
  return row;
}

function update(row, item) {
  const { run, facts } = item, cells = row.children;
  put(cells[0].firstChild, item.label);
  if (row.state !== run.state) {
    row.state = run.state;
    cells[1].replaceChildren(pill(run.state));
  }
  const engine = `${facts.optimiser}${facts.estimator ? `, ${facts.estimator}` : ""}`;
  [engine, measured(facts.gain), measured(facts.best), count(run.trials), short(run.events), duration(run.seconds), duration(run.cpu_seconds), money(run.price)]
    .forEach((text, i) => put(cells[i + 2], text));
}
