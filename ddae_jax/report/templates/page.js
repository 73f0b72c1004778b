"use strict";
const root = document.documentElement;
const tabs = [...document.querySelectorAll("[role=tab]")];
const panels = tabs.map((tab) =>
  document.getElementById(tab.getAttribute("aria-controls")));

// Plotly's texts and lines take the page's colours, which light and dark change.
function colours() {
  const ink = getComputedStyle(document.body).color;
  const line = getComputedStyle(document.querySelector("section")).borderTopColor;
  return { ink, line };
}

function coloured(layout) {
  const { ink, line } = colours();
  const axes = Object.keys(layout).filter((name) => /^[xy]axis/.test(name));
  const changes = { "font.color": ink };
  for (const axis of axes) {
    for (const part of ["gridcolor", "linecolor", "zerolinecolor"]) {
      changes[`${axis}.${part}`] = line;
    }
  }
  return changes;
}

// A plot takes its width when it is first seen: one that is hidden has none.
function draw(panel) {
  for (const plot of panel.querySelectorAll(".plot[data-figure]")) {
    const { data, layout } = JSON.parse(plot.dataset.figure);
    delete plot.dataset.figure;
    plot.hidden = false;
    plot.parentElement.classList.add("drawn");
    const options = { responsive: true, displaylogo: false };
    Plotly.newPlot(plot, data, layout, options)
      .then(() => Plotly.relayout(plot, coloured(plot.layout)));
  }
}

function recolour() {
  for (const plot of document.querySelectorAll(".plot.js-plotly-plot")) {
    Plotly.relayout(plot, coloured(plot.layout));
  }
}

function choose(chosen) {
  tabs.forEach((tab, index) => {
    tab.setAttribute("aria-selected", index === chosen);
    tab.tabIndex = index === chosen ? 0 : -1;
    panels[index].hidden = index !== chosen;
  });
  if (panels[chosen]) draw(panels[chosen]);
}

function chooseByAddress() {
  const wanted = panels.findIndex((panel) => `#${panel.id}` === location.hash);
  choose(Math.max(wanted, 0));
}

tabs.forEach((tab, index) => {
  tab.addEventListener("click", () => choose(index));
  tab.addEventListener("keydown", (event) => {
    const last = tabs.length - 1;
    const target = {
      ArrowRight: index === last ? 0 : index + 1,
      ArrowLeft: index === 0 ? last : index - 1,
      Home: 0,
      End: last,
    }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    choose(target);
    tabs[target].focus();
  });
});
window.addEventListener("hashchange", chooseByAddress);
chooseByAddress();
document.getElementById("tabs").hidden = tabs.length < 2;

const scheme = document.getElementById("scheme");
const system = matchMedia("(prefers-color-scheme: dark)");
scheme.hidden = false;
scheme.addEventListener("click", () => {
  const dark = (root.style.colorScheme || (system.matches ? "dark" : "light"))
    === "dark";
  root.style.colorScheme = dark ? "light" : "dark";
  recolour();
});
system.addEventListener("change", recolour);
