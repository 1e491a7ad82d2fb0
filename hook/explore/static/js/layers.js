// What the map shows: image, classes or probability, outlines, compare, opacity, bands.

import { $, make } from "./dom.js";
import { ramp } from "./paint.js";
import { state, update, watch } from "./store.js";

const MODES = { image: "Image", classes: "Classes", probability: "Probability" };

export function nextMode() {
  const names = Object.keys(MODES);
  update({ mode: names[(names.indexOf(state.mode) + 1) % names.length] });
}

function bandChoosers() {
  const { bands: names, numbers } = state.scene;
  const choosers = ["Red", "Green", "Blue"].map((shown, place) => {
    const options = names.map((name, k) => make("option", { value: numbers[k] }, /^\d+$/.test(name) ? `Band ${name}` : name));
    const chooser = make("select", {
      aria: { label: `Band shown as ${shown.toLowerCase()}` }, className: shown.toLowerCase(),
      onchange: () => update({ bands: choosers.map((each) => Number(each.value)) }),
    }, ...options);
    chooser.value = state.bands[place] ?? state.bands[0];
    return chooser;
  });
  $("bands").append(...choosers);
  $("bands").hidden = names.length < 2;
}

export function startLayers() {
  for (const [mode, name] of Object.entries(MODES))
    $("modes").append(make("label", { title: "Next of these (M)" },
      make("input", { type: "radio", name: "mode", value: mode, onchange: () => update({ mode }) }),
      make("span", {}, name)));
  $("outlines").onchange = () => update({ outlines: $("outlines").checked });
  $("compare").onchange = () => update({ compare: $("compare").checked });
  $("opacity").oninput = () => update({ opacity: Number($("opacity").value) });
  $("ramp").querySelector("i").style.background =
    `linear-gradient(to right, ${[0, 0.25, 0.5, 0.75, 1].map((share) => `rgb(${ramp(share)})`)})`;
  bandChoosers();
  if (matchMedia("(max-width: 700px)").matches) $("layers").open = false;
  watch(["mode", "outlines", "compare"], () => {
    for (const each of $("modes").querySelectorAll("input")) each.checked = each.value === state.mode;
    $("outlines").checked = state.outlines;
    $("compare").checked = state.compare;
  });
  watch(["mode", "map"], () => ($("ramp").hidden = state.mode !== "probability" || !state.map));
}
