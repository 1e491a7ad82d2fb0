// One sentence on what to do now, and the progress of the regions.

import { $ } from "./dom.js";
import { classOf, ready, state, watch } from "./store.js";

const key = (place) => (place >= 0 && place < 9 ? ` (key ${place + 1})` : "");

/** What to do before there are regions. */
function waiting() {
  const { classes, chosen, points, point } = state;
  const of = classOf(chosen), marked = new Set(points.map(({ class_id }) => class_id));
  const unmarked = classes.find(({ id }) => !marked.has(id));
  if (!classes.length) return "Regions are being computed. Meanwhile add two classes, such as water and forest, and click places of each.";
  if (classes.length < 2) return marked.size ? "Add a second class." : `Click places that are ${classes[0].name}, and add a second class.`;
  if (of && !marked.has(chosen)) return `Click places that are ${of.name}.`;
  if (of && unmarked) return `More of ${of.name}, or go on with ${unmarked.name}${key(classes.indexOf(unmarked))}.`;
  if (of) return `A click sets a point of ${of.name}; a click on one takes it away.`;
  if (point !== null) return "Delete removes the point. Or choose a class and click it.";
  return `Choose a class${key(0)}, then click places of it.`;
}

function sentence() {
  const { regions, classes, labels, chosen, map, offered, drawing, lost, selected, found, points } = state;
  if (lost) return "The server does not answer. Start ‘hook explore’ again; no label is lost.";
  if (regions.state === "failed") return `${regions.message || "The regions could not be computed."}${points.length ? "\nPoints and classes are kept." : ""}`;
  if (!ready()) return waiting();
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
  watch(["regions", "classes", "labels", "points", "point", "chosen", "map", "offered", "drawing", "lost", "selected", "found"], () => {
    const text = sentence();
    if ($("hint").textContent !== text) $("hint").textContent = text;
  });
  watch(["regions", "picture"], () => {
    const { state: now, done, message } = state.regions;
    const computing = now === "computing" || now === "waiting";
    const reading = state.picture < 1; // the first picture comes before the regions
    const [what, share] = reading ? ["Reading the scene", state.picture] : [message || "Computing regions", done ?? 0];
    $("progress").hidden = !reading && !computing;
    $("progress-bar").value = share;
    $("progress-text").textContent = `${what[0].toUpperCase()}${what.slice(1)} ${Math.round(100 * share)} %`;
  });
}
