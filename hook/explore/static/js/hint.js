// One sentence on what to do now, and the progress of the regions.

import { $ } from "./dom.js";
import { classOf, state, watch } from "./store.js";

const key = (place) => (place >= 0 && place < 9 ? ` (key ${place + 1})` : "");

function sentence() {
  const { regions, classes, labels, chosen, map, offered, drawing, lost, selected, found } = state;
  if (lost) return "The server does not answer. Start ‘hook explore’ again; no label is lost.";
  if (regions.state === "failed") return regions.message || "The regions could not be computed.";
  if (regions.state !== "ready") return "The regions of the scene are being found. Move, zoom and choose bands meanwhile.";
  if (drawing) return "Click the corners of a polygon. Double-click or Enter ends it, Esc stops.";
  if (offered !== null && selected)
    return `What is this? ${classes.map(({ name }, k) => (k < 9 ? `${k + 1} ${name}` : "")).join("   ")}   S skip   Esc stop`;
  if (found.length) return "Lit regions are alike. Choose a class and label them all, or Esc to clear.";
  if (!classes.length) {
    return "Start here: add two classes, such as water and forest. Then click regions of each.";
  }
  const unlabelled = classes.find(({ id }) => ![...labels.values()].includes(id));
  const of = classOf(chosen);
  if (classes.length < 2) return "Add a second class.";
  if (of && (!map || unlabelled?.id === chosen)) {
    if (new Set(labels.values()).has(chosen) && unlabelled)
      return `More of ${of.name}, or go on with ${unlabelled.name}${key(classes.indexOf(unlabelled))}.`;
    return `Click regions that are ${of.name}.`;
  }
  if (!map) return `Choose a class${key(0)}, then click regions of it.`;
  if (of) return `A click gives ${of.name}; again, it takes it away. Esc looks only. N asks for the least certain.`;
  return "‘Label these one by one’ (N) asks where the map is least certain. Or choose a class and click what is wrong.";
}

export function startHint() {
  watch(["regions", "classes", "labels", "chosen", "map", "offered", "drawing", "lost", "selected", "found"], () => {
    const text = sentence();
    if ($("hint").textContent !== text) $("hint").textContent = text;
  });
  watch(["regions"], () => {
    const { state: now, done, message } = state.regions;
    const going = now === "computing" || now === "waiting";
    $("progress").hidden = !going;
    $("progress-bar").value = done ?? 0;
    $("progress-text").textContent = message || `Computing regions ${Math.round(100 * (done ?? 0))} %`;
  });
}
