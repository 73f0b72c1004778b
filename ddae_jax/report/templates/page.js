"use strict";
const root = document.documentElement;
const tabs = [...document.querySelectorAll("[role=tab]")];
const panels = tabs.map((tab) =>
  document.getElementById(tab.getAttribute("aria-controls")));

function choose(chosen) {
  tabs.forEach((tab, index) => {
    tab.setAttribute("aria-selected", index === chosen);
    tab.tabIndex = index === chosen ? 0 : -1;
    panels[index].hidden = index !== chosen;
  });
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
});
