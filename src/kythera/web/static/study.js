// One run of a study: what it is, what it found, and its curves while it goes on.

import { at, get, root, serverNow, watch } from "./api.js";
import { announce, h, heading, put } from "./dom.js";
import { count, day, duration, measured, MEANING, money, short, sigmas, STATES } from "./format.js";
import { instrument } from "./instrument.js";
import { owner } from "./owner.js";
import { failures, front, gallery, landscape, metrics, numbers, parameters, paths } from "./parts.js";
import { frame, show } from "./plot.js";
import { pill } from "./studies.js";

export function study(content) {
  const id = Number(/studies\/(\d+)/.exec(location.pathname.slice(root.pathname.length))[1]);
  const run = Number(new URLSearchParams(location.search).get("run")) || 1;
  const base = `api/studies/${id}/runs/${run}`;
  const state = { id, run, base, axis: "events", last: -1, shown: "", header: null };

  const top = header(state);
  const axes = axisChoice(state, () => { state.last = -1; again(); parts.forEach((part) => part.turn?.()); });
  const loss = frame("Loss", 400);
  const sections = {
    loss: section("Loss", axes, loss),
    instrument: section("Instrument"),
    parameters: section("Parameters"),
    both: section("Start and best"),
    terms: section("Terms of the loss"),
    slack: section("Constraints"),
    front: section("Pareto front"),
    paths: section("Paths of the parameters"),
    metrics: section("Metrics"),
    landscape: section("Near-optimal landscape"),
    failures: section("Failed trials"),
  };
  const terms = numbers(sections.terms);
  const slack = numbers(sections.slack);
  const parts = [
    instrument(sections.instrument, state, ends(sections.both)), parameters(sections.parameters, state), front(sections.front, state),
    paths(sections.paths, state), metrics(sections.metrics, state), landscape(sections.landscape, state),
    failures(sections.failures, state),
  ];
  const waiting = h("p", { class: "empty", hidden: true },
    "This run has not begun to search: its programs are being compiled, or its process has ended. The page goes on by itself.");
  const pair = h("div", { class: "pair" }, sections.loss, sections.instrument);
  const rest = [pair, ...Object.values(sections).slice(2)];
  const about = section("Settings");
  const files = downloads(state);
  const own = owner(state);
  content.replaceChildren(top.element, waiting, ...rest, about, files, own.element);

  function update(data) {
    state.header = data;
    top.update(data);
    own.update(data);
    waiting.hidden = data.begun;
    for (const part of [...rest, about, files]) part.classList.toggle("off", !data.begun);
    if (!data.facts) return;
    state.last = data.last;
    show(loss, data.figures.loss || null);
    loss.classList.toggle("bare", !data.figures.loss);
    terms(data.facts.terms.length > 1 ? data.facts.terms : [], data.figures.terms, data.facts);
    slack(data.facts.slack, data.figures.slack, data.facts);
    settings(about, data.facts, data.run);
    parts.forEach((part) => part.fresh(data));
  }

  const again = watch(async () => {
    const data = await get(`${base}?after=${state.last}&axis=${state.axis}`);
    const moment = `${data.run.state} ${data.run.gain?.value}`;
    // A run that ends without a further trial has news all the same.
    const full = state.shown && moment !== state.shown && !data.facts ? await get(`${base}?axis=${state.axis}`) : data;
    if (state.shown && moment !== state.shown)
      announce(data.run.gain ? `Measured: a gain of ${measured(data.run.gain)}.` : `The run is ${STATES[data.run.state]}.`);
    state.shown = moment;
    update(full);
    return data.run.state === "running" ? 1.5 : 6;
  });
}

export function section(title, ...content) {
  const element = h("section", {}, h("h2", {}, title), ...content);
  element.body = h("div");
  element.append(element.body);
  return element;
}

// The instrument's own figures of start and best, which may show more than its shape.
function ends(place) {
  const grid = h("div", { class: "grid" }), fill = gallery(grid, "Start and best:");
  place.body.append(grid);
  place.hidden = true;
  return (figures) => {
    place.hidden = !Object.keys(figures).length;
    fill(figures);
  };
}

// Events or seconds along the axis of all curves.
export function axisChoice(state, changed) {
  const option = (value, label) => {
    const radio = h("input", { type: "radio", name: "axis", value, checked: value === state.axis });
    radio.addEventListener("change", () => { state.axis = value; changed(); });
    return h("label", {}, radio, h("span", {}, label));
  };
  return h("fieldset", { class: "choice" }, h("legend", {}, "Against"), option("events", "events"), option("seconds", "seconds"));
}

function header(state) {
  const title = h("h1", {}, "…"), about = h("p", { class: "about" }), line = h("p", { class: "headline" });
  const place = h("p", { class: "held" }), pillAt = h("span"), holder = h("span", { class: "quiet" });
  const runs = h("nav", { class: "choose-run", "aria-label": "Runs", hidden: true });
  const facts = h("dl", { class: "facts" }), bars = h("div", { class: "budgets" });
  place.append(pillAt, holder);
  const element = h("div", { class: "head" },
    h("p", { class: "crumbs" }, h("a", { href: root.href }, "All studies")), title, about, runs, place, line, bars, facts);
  let beat = null;
  setInterval(() => age(), 1000);

  function age() {
    if (!beat) return;
    const since = duration(Math.max(0, Math.round(serverNow() - beat.heartbeat)));
    put(holder, `${beat.holder ? `held by ${beat.holder}` : "held by nobody"}, last sign of life ${since} ago`);
  }

  function update(data) {
    const run = data.run, found = data.facts;
    heading(data.name);
    put(title, data.name);
    put(about, `${data.instrument} · ${data.mine ? "your study" : `shared by ${data.user}`} · begun ${day(run.began)}`);
    runs.hidden = data.runs.length < 2;
    if (runs.children.length !== data.runs.length)
      runs.replaceChildren(...data.runs.map((r) => h("a", {
        href: at(`studies/${state.id}?run=${r.number}`), "aria-current": r.number === state.run ? "page" : null }, `Run ${r.number}`)));
    if (pillAt.state !== run.state) {
      pillAt.state = run.state;
      pillAt.replaceChildren(pill(run.state));
    }
    beat = run.state === "running" || run.state === "silent" ? run : null;
    age();
    if (!beat) put(holder, run.state === "stopped" ? `${run.reason}. ${MEANING.stopped.split(": ")[1].replaceAll("`", "")}` : run.reason);
    budgets(bars, run);
    if (found) headline(line, found);
    const known = found ? {
      Trials: count(run.trials) + (found.failed ? ` (${count(found.failed)} failed)` : ""),
      Events: short(run.events) + (found.report_events ? ` + ${short(found.report_events)} to measure` : ""),
    } : { Trials: count(run.trials), Events: short(run.events) };
    const spent = { Time: duration(run.seconds), "CPU time": duration(run.cpu_seconds), Cost: money(run.price) };
    const what = found ? { Parameters: count(found.parameters), Optimiser: found.optimiser.replaceAll(",", ", "), "Gradient engine": found.estimator.replaceAll(",", ", ") } : {};
    list(facts, { ...known, ...spent, ...(found ? what : facts.what) });
    if (found) facts.what = what;
  }
  return { element, update };
}

function list(element, entries) {
  const names = Object.keys(entries);
  if (element.children.length !== names.length)
    element.replaceChildren(...names.map((name) => h("div", {}, h("dt", {}, name), h("dd"))));
  names.forEach((name, i) => put(element.children[i].lastChild, entries[name]));
}

function headline(line, found) {
  const text = JSON.stringify([found.start, found.best, found.gain, found.latest]);
  if (line.text === text) return;
  line.text = text;
  if (found.gain) {
    const sure = sigmas(found.gain);
    line.replaceChildren("Loss ", measured(found.start), " at the start, ", h("b", {}, measured(found.best)),
      " at best: a gain of ", h("b", {}, measured(found.gain)), ". ",
      h("span", { class: "quiet" }, `${sure ? `${sure[0].toUpperCase()}${sure.slice(1)}; ` : ""}both designs ${found.built ? "of the detector as built, " : ""}on the same fresh events.`));
  } else if (found.latest) {
    line.replaceChildren("Loss ", h("b", {}, measured(found.latest)), " at the last trial. ",
      h("span", { class: "quiet" }, "The gain is measured on fresh events when the search has ended."));
  } else line.replaceChildren(h("span", { class: "quiet" }, "No trial has a loss yet."));
}

// How much of each limit is used.
function budgets(place, run) {
  const used = { events: run.events, trials: run.trials, seconds: run.seconds, cpu_seconds: run.cpu_seconds, price: run.price };
  const shown = { events: short, trials: count, seconds: duration, cpu_seconds: duration, price: money };
  const title = { events: "Events", trials: "Trials", seconds: "Time", cpu_seconds: "CPU time", price: "Cost" };
  const names = Object.keys(used).filter((name) => run.limits?.[name] > 0);
  if (place.children.length !== names.length)
    place.replaceChildren(...names.map((name) => {
      const bar = h("progress", { max: 1, id: `budget-${name}` });
      return h("div", {}, h("label", { for: `budget-${name}` }, h("span", {}, `Budget: ${title[name].toLowerCase()}`), h("span")), bar);
    }));
  names.forEach((name, i) => {
    const [label, bar] = place.children[i].children;
    bar.value = Math.min(1, used[name] / run.limits[name]);
    put(label.lastChild, `${shown[name](used[name]) === "–" ? "0" : shown[name](used[name])} of ${shown[name](run.limits[name])}`);
  });
}

function settings(element, found, run) {
  const pairs = (entries) => Object.entries(entries).map(([k, v]) => `${k} = ${typeof v === "string" ? v : JSON.stringify(v)}`).join(", ");
  const rows = {
    Instrument: found.reference + (Object.keys(found.settings).length ? ` (${pairs(found.settings)})` : ""),
    "Rows of an evaluation": count(found.rows),
    "Weights of terms": pairs(found.weights) || "all 1",
    Seed: found.seed === null ? "a key of its own" : String(found.seed),
    Executor: run.executor || "local",
    Versions: `kythera ${found.versions.kythera}, jax ${found.versions.jax}, Python ${found.versions.python}`,
  };
  const text = JSON.stringify([rows, found.command]);
  if (element.text === text) return;
  element.text = text;
  element.body.replaceChildren(
    ...(found.command ? [h("p", {}, "To repeat this run:"), h("pre", { tabindex: 0 }, found.command)] : []),
    h("table", { class: "settings" }, h("tbody", {}, ...Object.entries(rows).map(([k, v]) => h("tr", {}, h("th", { scope: "row" }, k), h("td", {}, v))))));
}

function downloads(state) {
  const link = (file, label) => h("a", { class: "button", href: at(`${state.base}/${file}`), download: true }, label);
  return section("Download", h("p", { class: "row" }, link("report.html", "Report (HTML)"), link("trials.parquet", "Trials (Parquet)"),
    link("trials.csv", "Trials (CSV)"), link("trials.json", "Trials (JSON)")));
}
