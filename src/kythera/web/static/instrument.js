// The instrument at any trial that was drawn, with a slider from start to best.

import { get } from "./api.js";
import { h, put } from "./dom.js";
import { count, measured } from "./format.js";
import { part } from "./parts.js";
import { frame, show } from "./plot.js";

const KEPT = 40; // drawings that are remembered
const STEP = 250; // milliseconds of a picture while it plays

// Where there are drawings at trials, those of the report, of start and best, have a section
// of their own: `both` shows them.
export function instrument(section, state, both) {
  const known = new Map();
  let places = [], whole = {}, wanted = 0, follows = true, view = "", playing = 0;
  const slider = h("input", { type: "range", id: "trial", min: 0, max: 0, value: 0 });
  const label = h("label", { for: "trial" }, "Trial"), where = h("output", { for: "trial" });
  const play = h("button", { type: "button", class: "plain", "aria-pressed": "false" }, "Play");
  const tabs = h("div", { class: "tabs", role: "group", "aria-label": "View" });
  const picture = frame("The instrument", 400);
  const control = h("div", { class: "slider" }, label, slider, where, play);
  const empty = h("p", { class: "note", hidden: true });
  // Above the picture, whose height differs from view to view.
  section.body.append(tabs, control, picture, empty);

  slider.addEventListener("input", () => { stop(); move(); });
  play.addEventListener("click", () => (playing ? stop() : start()));

  function move() {
    wanted = Number(slider.value);
    follows = wanted === places.length - 1;
    draw();
  }
  function stop() {
    clearInterval(playing);
    playing = 0;
    play.setAttribute("aria-pressed", "false");
    put(play, "Play");
  }
  function start() {
    if (wanted === places.length - 1) slider.value = 0;
    play.setAttribute("aria-pressed", "true");
    put(play, "Stop");
    move();
    playing = setInterval(() => {
      if (wanted >= places.length - 1) return stop();
      slider.value = wanted + 1;
      return move();
    }, STEP);
  }

  const name = (place) => (place.state === "best" ? "best design" : place.number === 0 ? "0, the start" : count(place.number));

  function say(place) {
    const text = `${name(place)}${place.state === "failed" ? ", failed" : place.loss ? `, loss ${measured(place.loss)}` : ""}`;
    put(where, text);
    slider.setAttribute("aria-valuetext", text);
  }

  async function read(number) {
    if (!known.has(number)) {
      const data = await get(`${state.base}/drawings/${number}`);
      known.set(number, data.figures);
      if (known.size > KEPT) known.delete(known.keys().next().value);
    }
    return known.get(number);
  }

  async function draw() {
    const place = places[wanted];
    let figures = whole;
    if (place) {
      say(place);
      figures = await read(place.number).catch(() => null);
      if (!figures || places[wanted] !== place) return; // the slider has moved on
      if (places[wanted + 1]) read(places[wanted + 1].number).catch(() => null);
    }
    const names = Object.keys(figures);
    if (!names.includes(view)) view = names[0];
    choose(names);
    show(picture, figures[view]);
  }

  function choose(names) {
    tabs.hidden = names.length < 2;
    if (tabs.names === names.join("\n")) return;
    tabs.names = names.join("\n");
    tabs.replaceChildren(...names.map((n) => {
      const button = h("button", { type: "button", class: "plain", "aria-pressed": String(n === view) }, n.replaceAll("_", " "));
      button.addEventListener("click", () => {
        view = n;
        for (const other of tabs.children) other.setAttribute("aria-pressed", String(other === button));
        draw();
      });
      return button;
    }));
  }

  return part(section, async () => {
    const data = await get(`${state.base}/drawings`);
    places = data.drawn;
    whole = data.figures;
    both(places.length ? whole : {});
    const is = places.length > 0 || Object.keys(whole).length > 0;
    picture.hidden = !is;
    control.hidden = !places.length;
    empty.hidden = is && !data.failed;
    put(empty, data.failed ? `The instrument could not draw: ${data.failed}`
      : "This instrument does not draw itself: give its problem a `sketch` (see the documentation, Writing an instrument).");
    if (!is) return;
    slider.max = Math.max(0, places.length - 1);
    if (follows) slider.value = slider.max;
    wanted = Number(slider.value);
    await draw();
  });
}
