"use strict";
{
  const find = (name) => document.getElementById(name);
  const explorer = find("explorer");
  const levels = JSON.parse(explorer.dataset.levels);
  const most = Number(explorer.dataset.most);
  const slider = find("level");
  const chosen = (name) =>
    explorer.querySelector(`input[name=${name}]:checked`);
  let image = { source: "chosen", number: 0 };
  let asked = "";  // what is shown, or on its way
  let busy = false;

  // Names come as they are: they are only ever put in as text.
  function element(tag, properties, children = []) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  function tell(text) {
    find("told").hidden = !text;
    find("told").textContent = text;
  }

  async function answer(address, options) {
    let response;
    try {
      response = await fetch(address, options);
    } catch {
      throw new Error("the server does not answer; start it again");
    }
    const content = await response.json();
    if (content.error) throw new Error(content.error);
    return content;
  }

  function wanted() {
    const { source, number } = image;
    return new URLSearchParams(
      { source, number, level: slider.value, tap: chosen("tap").value }).toString();
  }

  // One question at a time; of those that come meanwhile, the last.
  async function update() {
    showLevel();
    if (busy || asked === wanted()) return;
    busy = true;
    const waiting = setTimeout(() => { find("state").textContent = "computing"; }, 300);
    const query = asked = wanted();
    try {
      show(await answer(`/view?${query}`), query);
      tell("");
    } catch (error) {
      tell(error.message);
    }
    clearTimeout(waiting);
    find("state").textContent = "";
    busy = false;
    if (asked !== wanted()) update();
  }

  function showLevel() {
    const text = Number(levels[slider.value].toPrecision(2)).toString();
    find("level-shown").textContent = text;
    slider.setAttribute("aria-valuetext", text);
  }

  function show(view, query) {
    find("noisy").src = view.noisy;
    find("denoised").src = view.denoised;
    for (const input of explorer.querySelectorAll("input[name=tap]")) {
      const maps = view.maps[input.value];
      for (const drawn of input.closest("label").querySelectorAll("img")) {
        drawn.src = maps[drawn.dataset.map];
      }
      input.parentElement.querySelector(".soft").textContent = maps.size;
    }
    find("tap-shown").textContent = new URLSearchParams(query).get("tap");
    find("neighbours").replaceChildren(...view.neighbours.map((one) =>
      element("figure", {}, [
        element("img", { src: one.image, alt: one.name, className: "pixels" }),
        element("figcaption", { textContent: `${one.name} · ${one.cosine.toFixed(3)}` }),
      ])));
    find("classes")?.replaceChildren(...view.classes.map((one) => {
      const share = `${(100 * one.probability).toFixed(1)} %`;
      const length = element("span", { className: "share" });
      length.style.width = share.replace(" ", "");
      return element("tr", {}, [
        element("td", { textContent: one.name }),
        element("td", {}, [length]),
        element("td", { textContent: share, className: "number" }),
      ]);
    }));
    explorer.dataset.shown = query;
  }

  function choose(source, number, shown, name) {
    image = { source, number };
    find("clean").src = shown;
    find("name").textContent = name ? `: ${name}` : "";
    update();
  }

  function chooseOne() {
    const input = chosen("image");
    const drawn = input.parentElement.querySelector("img");
    tell("");
    choose("chosen", input.value, drawn.src, drawn.alt);
  }

  async function upload(file) {
    if (!file) return;
    if (file.size > most) {
      tell(`your image: at most ${most >> 20} MiB are read`);
      return;
    }
    try {
      const kept = await answer("/upload", { method: "POST", body: file });
      const before = chosen("image");
      if (before) before.checked = false;
      tell("");
      choose("upload", kept.number, kept.image, file.name);
    } catch (error) {
      tell(error.message);
    }
  }

  slider.addEventListener("input", update);
  find("choice").addEventListener("change", chooseOne);
  find("file").addEventListener("change", (event) => upload(event.target.files[0]));
  explorer.querySelectorAll("input[name=tap]").forEach((input) =>
    input.addEventListener("change", update));
  chooseOne();
}
