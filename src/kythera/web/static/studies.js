// All studies and their runs, what they cost, and which to compare.

import { at, get, serverNow, watch } from "./api.js";
import { announce, h, keyed, put } from "./dom.js";
import { count, day, duration, measured, MEANING, money, short, STATES } from "./format.js";

const MOST = 300; // studies in the list
const MANY = 8; // studies from which on there is a filter

const COLUMNS = [
  ["study", "Study"], ["state", "State"], ["gain", "Gain"], ["trials", "Trials", "n"],
  ["events", "Events", "n"], ["seconds", "Time", "n"], ["cpu", "CPU time", "n"], ["price", "Cost", "n"],
];
const USERS = [
  ["user", "User"], ["studies", "Studies", "n"], ["runs", "Runs", "n"], ["events", "Events", "n"],
  ["seconds", "Time", "n"], ["cpu", "CPU time", "n"], ["price", "Cost", "n"],
];

function table(columns, label, first) {
  const body = h("tbody");
  const head = columns.map(([, title, kind]) => h("th", { scope: "col", class: kind }, title));
  const element = h("table", { class: "cards", "aria-label": label },
    h("thead", {}, h("tr", {}, first, ...head)), body);
  return { element, body };
}

const cell = ([name, title, kind]) => h("td", { class: `${name} ${kind || ""}`, "data-title": title });

export function pill(state) {
  return h("span", { class: `pill ${state}`, title: MEANING[state] }, STATES[state] || state);
}

export function studies(content) {
  const chosen = new Set();
  let data = null, text = "";
  const store = h("p", { class: "quiet path" });
  const filter = h("input", { type: "search", id: "filter", autocomplete: "off", maxlength: 200, oninput: () => show() });
  const filters = h("p", { class: "filter", hidden: true }, h("label", { for: "filter" }, "Filter by study, user or instrument"), filter);
  const note = h("p", { class: "note", hidden: true });
  const list = table(COLUMNS, "Studies and their runs", h("th", { class: "pick" }, h("span", { class: "unseen" }, "Compare")));
  const users = table(USERS, "What each user spent", null);
  const empty = h("div", { class: "empty", hidden: true },
    h("h2", {}, "No study yet"),
    h("p", {}, "Begin one in a terminal; it appears here within seconds:"),
    h("pre", { tabindex: 0 }));
  const spent = h("section", { hidden: true }, h("h2", {}, "What was spent"), users.element);
  const go = h("a", { class: "button", href: "#" });
  const clear = h("button", { type: "button", class: "plain", onclick: () => { chosen.clear(); show(); filter.focus(); } }, "Clear");
  const bar = h("aside", { class: "bar", hidden: true, "aria-label": "Comparison" }, go, clear);
  content.replaceChildren(h("h1", {}, "Studies"), store, filters, empty, list.element, note, spent, bar);
  list.element.hidden = true;

  function choose(event) {
    const box = event.target;
    if (box.checked) chosen.add(box.value);
    else chosen.delete(box.value);
    shown();
    announce(`${chosen.size} chosen to compare.`);
  }

  function shown() {
    bar.hidden = chosen.size === 0;
    document.body.classList.toggle("has-bar", chosen.size > 0);
    const query = [...chosen].slice(0, 8).map((of) => `of=${of}`).join("&");
    go.href = at(`compare?${query}`);
    put(go, chosen.size < 2 ? "Show 1 run; choose another one to compare" : `Compare ${Math.min(chosen.size, 8)} runs`);
  }

  function makeRow(item) {
    const label = `Compare run ${item.run?.number ?? ""} of ${item.study.name}`;
    const box = item.run && h("input", { type: "checkbox", value: item.of, "aria-label": label, onchange: choose });
    const row = h("tr", {}, h("td", { class: "pick" }, box), ...COLUMNS.map(cell));
    row.link = h("a", { href: at(`studies/${item.study.id}${item.run && item.run.number > 1 ? `?run=${item.run.number}` : ""}`) });
    row.about = h("span", { class: "about" });
    row.children[1].append(row.link, row.about);
    return row;
  }

  function updateRow(row, { study, run, of }) {
    const cells = Object.fromEntries(COLUMNS.map(([name], i) => [name, row.children[i + 1]]));
    put(row.link, study.name + (run && run.number > 1 ? `, run ${run.number}` : ""));
    put(row.about, `${study.instrument} · ${study.mine ? "" : `${study.user} · `}${day(run ? run.began : study.created)}`);
    const box = row.querySelector("input");
    if (box) box.checked = chosen.has(of);
    if (row.state !== run?.state) {
      row.state = run?.state;
      row.holder = h("span", { class: "about" });
      cells.state.replaceChildren(run ? pill(run.state) : h("span", { class: "quiet" }, "no run yet"), row.holder);
    }
    if (!run) return;
    row.beat = run.state === "running" || run.state === "silent" ? run : null;
    if (!row.beat) put(row.holder, run.state === "finished" ? "" : run.reason.slice(0, 90));
    put(cells.gain, run.gain ? measured(run.gain) : "");
    put(cells.trials, count(run.trials));
    put(cells.events, short(run.events));
    put(cells.seconds, duration(run.seconds));
    put(cells.cpu, duration(run.cpu_seconds));
    put(cells.price, money(run.price));
  }

  function show() {
    if (!data) return;
    const word = filter.value.trim().toLowerCase();
    const found = data.studies.filter((s) => [s.name, s.user, s.instrument].some((t) => t.toLowerCase().includes(word)));
    const items = found.slice(0, MOST).flatMap((study) =>
      study.runs.length
        ? [...study.runs].reverse().map((run) => ({ study, run, of: `${study.id}.${run.number}` }))
        : [{ study, run: null, of: `${study.id}` }]);
    list.element.hidden = !items.length;
    empty.hidden = data.studies.length > 0;
    filters.hidden = data.studies.length < MANY;
    note.hidden = found.length === data.studies.length && found.length <= MOST;
    put(note, found.length > MOST
      ? `${MOST} of ${count(found.length)} studies, the newest. Type to find others.`
      : `${count(found.length)} of ${count(data.studies.length)} studies contain “${word}”.`);
    keyed(list.body, items, (item) => item.of, makeRow, updateRow);
    spent.hidden = !data.users.length;
    keyed(users.body, data.users, (u) => u.user, () => h("tr", {}, ...USERS.map(cell)), (row, u) => {
      const shown = [u.user, count(u.studies), count(u.runs), short(u.events), duration(u.seconds), duration(u.cpu_seconds), money(u.price)];
      shown.forEach((value, i) => put(row.children[i], value));
    });
    put(store, `Store ${data.store}, as ${data.user}${data.read_only ? "" : ", may be changed here"}`);
    const url = data.store.startsWith("sqlite:///") ? data.store.slice(10) : data.store;
    put(empty.querySelector("pre"), `kythera optimise telescope --store ${/^[\w./-]+$/.test(url) ? url : `'${url}'`} --name first`);
    shown();
    beat();
  }

  // Ages count on between two answers; no screen reader is told.
  function beat() {
    for (const row of list.body.children) {
      if (row.beat) put(row.holder, `${row.beat.holder || "nobody"}, ${duration(Math.max(0, Math.round(serverNow() - row.beat.heartbeat)))} ago`);
    }
  }
  setInterval(beat, 1000);

  watch(async () => {
    const found = await get("api/studies");
    const next = JSON.stringify(found);
    if (next !== text) {
      text = next;
      data = found;
      show();
    }
    return found.studies.some((s) => s.runs.some((r) => r.state === "running")) ? 2 : 5;
  });
}
