"use strict";
// Draws the figures that stand in the page as JSON, each into the element before it.
(function () {
  const axis = { gridcolor: "#e9ecef", zeroline: false, linecolor: "#aab2bb", ticks: "outside",
    ticklen: 4, tickcolor: "#aab2bb", automargin: true, title: { standoff: 10 } };
  const wall = { gridcolor: "#dfe3e8", backgroundcolor: "#ffffff", zerolinecolor: "#dfe3e8", showbackground: false };
  const template = { layout: {
    font: { family: 'system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, "Liberation Sans", sans-serif',
      size: 13, color: "#1c2128" },
    colorway: ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222", "#8A8F98"],
    paper_bgcolor: "#ffffff", plot_bgcolor: "#ffffff", xaxis: axis, yaxis: axis,
    scene: { xaxis: wall, yaxis: wall, zaxis: wall, camera: { eye: { x: 1.5, y: -1.6, z: 0.7 }, center: { x: 0, y: 0, z: -0.12 } } },
    legend: { orientation: "h", x: 0, y: 1, xanchor: "left", yanchor: "bottom", font: { size: 12 } },
    hoverlabel: { font: { size: 12 } }, colorscale: { sequential: "Viridis" },
    margin: { l: 64, r: 16, t: 34, b: 52 } } };
  const drawn = [];
  for (const source of document.querySelectorAll("script.figure")) {
    const place = source.previousElementSibling;
    try {
      const figure = JSON.parse(source.textContent);
      const layout = Object.assign({ height: 380 }, figure.layout, { template: template, autosize: true });
      delete layout.width;
      place.style.minHeight = layout.height + "px";
      Plotly.newPlot(place, figure.data, layout, { responsive: true, displaylogo: false,
        displayModeBar: place.clientWidth > 700 ? "hover" : false,
        modeBarButtonsToRemove: ["lasso2d", "select2d"] });
      drawn.push(place);
    } catch (error) {
      place.textContent = "This figure cannot be drawn: " + error.message;
    }
  }
  const fit = () => drawn.forEach((place) => Plotly.Plots.resize(place));
  window.addEventListener("beforeprint", fit);
  window.addEventListener("afterprint", fit);
})();
