// Figures of the server, drawn by plotly.js in the colours of the page.

import { at, get } from "./api.js";
import { h, put } from "./dom.js";

const dark = matchMedia("(prefers-color-scheme: dark)");
const places = new Set(); // elements with a figure
// What is dark on white must be light on black; the hues stay those of the colour-blind.
const LIGHTER = {
  "#222222": "#e4e8ee", "#0072B2": "#4ba3dd", "#D55E00": "#f08a3c", "#009E73": "#2fc498",
  "34,34,34": "228,232,238", "0,114,178": "75,163,221", "213,94,0": "240,138,60", "0,158,115": "47,196,152",
};
const DARK = {
  ...LIGHTER, "#ffffff": "#171b21", "#1c2128": "#e4e8ee", "#e9ecef": "#2b323c", "#aab2bb": "#59636f", "#dfe3e8": "#353d48",
};

function recoloured(value, colours) {
  if (!dark.matches) return value;
  if (typeof value === "string") {
    if (colours[value]) return colours[value];
    const parts = /^rgba\(([\d,]+),([\d.]+)\)$/.exec(value);
    return parts && colours[parts[1]] ? `rgba(${colours[parts[1]]},${parts[2]})` : value;
  }
  if (Array.isArray(value)) return typeof value[0] === "number" ? value : value.map((v) => recoloured(v, colours));
  if (value && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, recoloured(v, colours)]));
  return value;
}

let loading;
function plotly() {
  const library = () => new Promise((resolve, reject) => {
    const script = h("script", { src: at("static/plotly.min.js") });
    script.addEventListener("load", () => resolve(window.Plotly));
    script.addEventListener("error", () => reject(new Error("plotly.js cannot be read")));
    document.head.append(script);
  });
  loading ??= Promise.all([library(), get("static/template.json")]).catch((error) => {
    loading = undefined;
    throw error;
  });
  return loading;
}

const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    entry.target.isNear = entry.isIntersecting;
    if (entry.isIntersecting) draw(entry.target);
  }
}, { rootMargin: "300px" });

// An element for a figure, of its height from the first moment on: nothing jumps.
export function frame(label, height = 380) {
  const plot = h("div", { class: "plot" });
  plot.style.minHeight = `${height}px`;
  const caption = h("figcaption");
  const element = h("figure", { role: "group", "aria-label": label }, plot, caption);
  element.plot = plot;
  element.caption = caption;
  places.add(plot);
  near.observe(plot);
  return element;
}

// Shows a figure in a frame, in place of the one that was there; zoom and view stay.
export function show(element, figure) {
  const text = JSON.stringify(figure);
  if (element.plot.text === text) return;
  element.plot.text = text;
  element.plot.figure = figure;
  put(element.caption, figure?.caption || "");
  draw(element.plot);
}

async function draw(place) {
  if (!place.figure || !place.isNear || !place.isConnected) return;
  const figure = place.figure, theme = dark.matches;
  if (place.shown === figure && place.theme === theme) return;
  place.shown = figure;
  place.theme = theme;
  try {
    const [Plotly, look] = await plotly();
    if (place.figure !== figure) return; // a newer one came meanwhile
    const layout = { height: 380, ...recoloured(figure.layout, LIGHTER), template: recoloured(look, DARK), autosize: true, uirevision: "kept" };
    delete layout.width;
    place.style.minHeight = `${layout.height}px`;
    await Plotly.react(place, recoloured(figure.data, LIGHTER), layout, {
      responsive: true, displaylogo: false, displayModeBar: place.clientWidth > 560 ? "hover" : false,
      modeBarButtonsToRemove: ["lasso2d", "select2d", "sendChartToCloud"] });
  } catch (error) {
    place.shown = undefined;
    place.textContent = `This figure cannot be drawn: ${error.message}`;
  }
}

dark.addEventListener("change", () => places.forEach(draw));
