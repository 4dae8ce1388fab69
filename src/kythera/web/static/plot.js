// Figures of the server, drawn by plotly.js in the colours of the page.

import { at } from "./api.js";
import { h, put } from "./dom.js";

const dark = matchMedia("(prefers-color-scheme: dark)");
const places = new Set(); // elements with a figure
const FONT = 'system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, "Liberation Sans", sans-serif';

const PAPER = { true: "#171b21", false: "#ffffff" };
// What is dark on white must be light on black; the hues stay those of the colour-blind.
const LIGHTER = {
  "#222222": "#e4e8ee",
  "#0072B2": "#4ba3dd",
  "#D55E00": "#f08a3c",
  "#009E73": "#2fc498",
  "34,34,34": "228,232,238",
  "0,114,178": "75,163,221",
  "213,94,0": "240,138,60",
  "0,158,115": "47,196,152",
};

function template() {
  const on = dark.matches;
  const ink = on ? "#e4e8ee" : "#1c2128", grid = on ? "#2b323c" : "#e9ecef", line = on ? "#59636f" : "#aab2bb";
  const axis = { gridcolor: grid, zeroline: false, linecolor: line, ticks: "outside", ticklen: 4, tickcolor: line,
    automargin: true, title: { standoff: 10 } };
  const wall = { gridcolor: on ? "#353d48" : "#dfe3e8", zerolinecolor: on ? "#353d48" : "#dfe3e8", showbackground: false };
  return { layout: {
    font: { family: FONT, size: 13, color: ink },
    colorway: ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222", "#8A8F98"].map((c) => recoloured(c)),
    paper_bgcolor: PAPER[on], plot_bgcolor: PAPER[on], xaxis: axis, yaxis: axis,
    scene: { xaxis: wall, yaxis: wall, zaxis: wall,
      camera: { eye: { x: 1.5, y: -1.6, z: 0.7 }, center: { x: 0, y: 0, z: -0.12 } } },
    legend: { orientation: "h", x: 0, y: 1, xanchor: "left", yanchor: "bottom", font: { size: 12 } },
    hoverlabel: { font: { size: 12, family: FONT } }, colorscale: { sequential: "Viridis" },
    margin: { l: 60, r: 14, t: 34, b: 48 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: line, activecolor: ink } } };
}

function recoloured(value) {
  if (!dark.matches) return value;
  if (typeof value === "string") {
    const known = LIGHTER[value];
    if (known) return known;
    const parts = /^rgba\(([\d,]+),([\d.]+)\)$/.exec(value);
    return parts && LIGHTER[parts[1]] ? `rgba(${LIGHTER[parts[1]]},${parts[2]})` : value;
  }
  if (Array.isArray(value)) return typeof value[0] === "number" ? value : value.map(recoloured);
  if (value && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, recoloured(v)]));
  return value;
}

let loading;
function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = h("script", { src: at("static/plotly.min.js") });
    script.addEventListener("load", () => resolve(window.Plotly));
    script.addEventListener("error", () => { loading = undefined; reject(new Error("plotly.js cannot be read")); });
    document.head.append(script);
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
    const Plotly = await plotly();
    if (place.figure !== figure) return; // a newer one came meanwhile
    const layout = { height: 380, ...recoloured(figure.layout), template: template(), autosize: true, uirevision: "kept" };
    delete layout.width;
    place.style.minHeight = `${layout.height}px`;
    await Plotly.react(place, recoloured(figure.data), layout, {
      responsive: true, displaylogo: false, displayModeBar: place.clientWidth > 560 ? "hover" : false,
      modeBarButtonsToRemove: ["lasso2d", "select2d"] });
  } catch (error) {
    place.shown = undefined;
    place.textContent = `This figure cannot be drawn: ${error.message}`;
  }
}

dark.addEventListener("change", () => places.forEach(draw));
