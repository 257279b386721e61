"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const touch = window.matchMedia("(pointer: coarse)").matches;
  const config = {
    responsive: true,
    displaylogo: false,
    displayModeBar: touch ? false : "hover", // a finger cannot hover: the bar would always cover the legend
    typesetMath: false, // dollar signs of names are no formulas
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };

  const scales = {
    sequential: [
      [[0, "#ffffff"], [0.25, "#cfe0f3"], [0.5, "#8db6e0"], [0.75, "#3f7fc0"], [1, "#123c6e"]],
      [[0, "#1a2029"], [0.25, "#1f3f63"], [0.5, "#2b5f93"], [0.75, "#3f86c8"], [1, "#6aaee6"]],
    ],
    diverging: [
      [[0, "#a63c4f"], [0.25, "#e0a3ad"], [0.5, "#ffffff"], [0.75, "#8db6e0"], [1, "#123c6e"]],
      [[0, "#f08497"], [0.25, "#84404d"], [0.5, "#1a2029"], [0.75, "#2f6ea8"], [1, "#e2f1ff"]],
    ],
  };

  // What the theme says of a figure, by plotly's dotted names.
  function theme(layout) {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const changes = {
      "paper_bgcolor": color("--panel"),
      "plot_bgcolor": color("--panel"),
      "font.color": color("--text"),
      "font.family": getComputedStyle(document.body).fontFamily,
      "font.size": 12,
      "hoverlabel.bgcolor": color("--ground"),
      "hoverlabel.bordercolor": color("--line"),
      "hoverlabel.font.color": color("--text"),
    };
    for (const axis of ["xaxis", "yaxis"]) {
      changes[axis + ".title.standoff"] = 8;
      changes[axis + ".gridcolor"] = color("--line");
      changes[axis + ".linecolor"] = color("--line");
      changes[axis + ".zerolinecolor"] = color("--line");
    }
    // A finger that scrolls the page must not zoom the figure.
    if (touch) changes["dragmode"] = false;
    if (layout.coloraxis) changes["coloraxis.colorscale"] = scales[layout.meta.scale][dark.matches ? 1 : 0];
    return changes;
  }

  // Bars in the colour of the text.
  function ink(traces) {
    const color = getComputedStyle(document.documentElement).getPropertyValue("--text").trim();
    for (const trace of traces) if (trace.meta === "ink") trace.marker = { color };
  }

  function set(target, path, value) {
    const keys = path.split(".");
    const last = keys.pop();
    for (const key of keys) target = target[key] ??= {};
    target[last] = value;
  }

  for (const [key, figure] of Object.entries(figures)) {
    for (const [path, value] of Object.entries(theme(figure.layout))) set(figure.layout, path, value);
    ink(figure.data);
    Plotly.newPlot(key, figure.data, figure.layout, config);
  }
  // A choice holds for all figures that offer the same ones.
  const labels = (select) => [...select.options].map((option) => option.label).join("\n");
  function choose(event) {
    for (const select of document.querySelectorAll("select[data-for]")) {
      if (labels(select) !== labels(event.target)) continue;
      select.value = event.target.value;
      const option = figures[select.dataset.for].options[Number(select.value)];
      Plotly.update(select.dataset.for, option.data, option.layout);
    }
  }
  for (const select of document.querySelectorAll("select[data-for]")) {
    select.value = "0"; // browsers keep a choice over a reload, figures do not
    select.addEventListener("change", choose);
  }
  dark.addEventListener("change", () => {
    for (const key of Object.keys(figures)) {
      const plot = document.getElementById(key);
      ink(plot.data);
      Plotly.update(plot, {}, theme(plot.layout));
    }
  });
})();
