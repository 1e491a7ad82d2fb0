// The keyboard, and the list of its keys.

import { chooseAt } from "./classes.js";
import { $, attempt, make } from "./dom.js";
import { undo } from "./labels.js";
import { nextMode } from "./layers.js";
import { clearFound, erase, findSimilar, finishPolygon, give, offer, togglePolygon } from "./region.js";
import { openSave } from "./save.js";
import { state, update } from "./store.js";
import { showAll } from "./view.js";

const KEYS = [
  ["1 – 9", "Choose a class; answer for an offered region"],
  ["Enter", "Label the selected region with the chosen class; end a polygon"],
  ["Delete", "Remove the label of the selected region, or the selected point"],
  ["N, S", "Offer the least certain region; skip it"],
  ["F", "Find regions like the selected one"],
  ["P", "Draw a polygon and find regions like those in it"],
  ["M", "Image, classes or probability"],
  ["O, C", "Outlines; compare image and map"],
  ["Ctrl Z", "Undo the last label or point"],
  ["Ctrl S", "Save"],
  ["Esc", "Stop: polygon, offer, class, found regions"],
  ["Arrows, +, −", "Move and zoom the map (click it or go there with Tab)"],
  ["W", "Whole scene"],
  ["Enter on the map", "Take the region at the cross; before there are regions, set a point"],
];

function digit(place) {
  const { offered, selected, classes } = state;
  if (offered !== null && selected?.id === offered && classes[place]) return give(classes[place].id);
  return chooseAt(place);
}

function escape() {
  if (state.drawing) return update({ drawing: null });
  if (state.offered !== null) return update({ offered: null });
  if (state.chosen !== null) return update({ chosen: null });
  return clearFound();
}

const PLAIN = {
  enter: () => (state.drawing ? finishPolygon() : state.chosen !== null && give(state.chosen)),
  delete: erase,
  backspace: erase,
  n: () => offer(),
  s: () => offer(true),
  f: findSimilar,
  p: togglePolygon,
  m: nextMode,
  o: () => update({ outlines: !state.outlines }),
  c: () => update({ compare: !state.compare }),
  w: showAll,
  u: undo,
  escape,
  "?": () => $("keys-dialog").showModal(),
};

export function startKeys() {
  $("keys-list").append(...KEYS.flatMap(([keys, what]) => [
    make("dt", {}, ...keys.split(", ").map((key) => make("kbd", {}, key))), make("dd", {}, what)]));
  $("help").onclick = () => $("keys-dialog").showModal();
  document.addEventListener("keydown", attempt(async (event) => {
    const { target, key } = event;
    if (document.querySelector("dialog[open]")) return;
    const control = event.ctrlKey || event.metaKey;
    const typing = target.matches("input[type=text], select, textarea");
    if (control && !event.shiftKey && !event.altKey && !typing) {
      const action = { z: undo, s: openSave }[key.toLowerCase()];
      if (!action) return;
      event.preventDefault();
      await action();
      return;
    }
    if (control || event.altKey || typing) return;
    if (key === "Enter" && target.matches("button, a, summary, input")) return; // its own action
    const action = /^[1-9]$/.test(key) ? () => digit(Number(key) - 1) : PLAIN[key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    await action();
  }));
}
