"use strict";
// Draws the figures that stand in the page as JSON, each into the element before it.
(function () {
  const template = JSON.parse(document.getElementById("template").textContent);
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
        modeBarButtonsToRemove: ["lasso2d", "select2d", "sendChartToCloud"] });
      drawn.push(place);
    } catch (error) {
      place.textContent = "This figure cannot be drawn: " + error.message;
    }
  }
  const fit = () => drawn.forEach((place) => Plotly.Plots.resize(place));
  window.addEventListener("beforeprint", fit);
  window.addEventListener("afterprint", fit);
})();
