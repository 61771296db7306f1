// Draws the charts of this page and switches between the ways to draw one.
"use strict";
(() => {
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const options = {
    mode: "vega-lite",
    renderer: "svg",
    actions: false,
    ast: true, // expressions are interpreted, never compiled from text
    defaultStyle: false,
    tooltip: { disableDefaultStyle: true },
  };
  const columns = (plot) => Math.max(1, Math.floor(plot.clientWidth / 165)); // of the legend
  const draw = async (figure, name) => {
    const plot = figure.querySelector(".plot");
    const spec = specs[name];
    spec.config.legend.columns = columns(plot);
    const drawn = figure.view;
    figure.view = null;
    if (drawn) drawn.finalize();
    plot.dataset.chart = name;
    delete plot.dataset.drawn;
    try {
      const view = await vegaEmbed(plot, spec, options);
      if (plot.dataset.chart !== name) return view.finalize(); // switched meanwhile
      figure.view = view;
      plot.dataset.drawn = name;
    } catch (error) {
      plot.textContent = "This figure could not be drawn: " + error.message;
    }
  };
  for (const figure of document.querySelectorAll("figure[data-figure]")) {
    const checked = figure.querySelector("input:checked");
    draw(figure, checked ? checked.value : figure.querySelector(".plot").dataset.chart);
    figure.addEventListener("change", (event) => draw(figure, event.target.value));
    const plot = figure.querySelector(".plot");
    new ResizeObserver(() => {
      const name = plot.dataset.drawn;
      if (name && specs[name].config.legend.columns !== columns(plot)) draw(figure, name);
    }).observe(plot);
  }
  // Paper has no folds: everything is opened before printing, and closed again after.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const fold of opened) fold.open = true;
  });
  addEventListener("afterprint", () => {
    for (const fold of opened) fold.open = false;
  });
})();
