// The list of classes: choose, rename, recolour, delete, add; labels and area of each.

import { $, attempt, make, tell } from "./dom.js";
import { areaText } from "./grid.js";
import { changeClass } from "./labels.js";
import { classOf, ready, state, update, watch } from "./store.js";

// Told apart with colour-blind eyes (Okabe and Ito), and two more.
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#f0e442", "#56b4e9", "#8c564b", "#7f7f7f"];

const freeColour = () => COLOURS.find((c) => !state.classes.some(({ color }) => color === c)) ?? "#7f7f7f";

const labelled = (count) => (count === 1 ? "1 label" : `${count} labels`);

export const choose = (id) => update({ chosen: id === state.chosen ? null : id });

/** Choose the class of a digit key; false if there is none. */
export function chooseAt(place) {
  if (!state.classes[place]) return false;
  update({ chosen: state.classes[place].id });
  return true;
}

function row({ id, name, color }, place, counts, total) {
  const chosen = id === state.chosen, count = counts.get(id) ?? 0;
  const area = state.map?.areas[id];
  const share = total ? (100 * (area ?? 0)) / total : 0;
  const swatch = make("input", {
    type: "color", value: color, aria: { label: `Colour of ${name}` },
    onchange: attempt((event) => changeClass(`/${id}`, { color: event.target.value }, "PATCH")),
  });
  const pick = make(
    "button",
    {
      type: "button", className: "pick", role: "radio", tabIndex: 0, onclick: () => choose(id),
      aria: { checked: chosen, label: `${name}, ${labelled(count)}${area === undefined ? "" : `, ${areaText(area)}`}` },
      title: place < 9 ? `Label with this class (${place + 1})` : "Label with this class",
    },
    make("kbd", {}, place < 9 ? String(place + 1) : ""),
    make("span", { className: "name" }, name),
    make("span", { className: "count", title: "Labels" }, String(count)),
    make("span", { className: "area" }, area === undefined ? "" : `${areaText(area)} · ${share.toFixed(share < 10 ? 1 : 0)} %`),
    make("span", { className: "bar", color }),
  );
  pick.querySelector(".bar").style.width = `${share}%`;
  const rename = make("button", { type: "button", className: "quiet", title: "Rename", aria: { label: `Rename ${name}` }, onclick: () => edit(id) }, "✎");
  const remove = make("button", {
    type: "button", className: "quiet", title: "Delete class and its labels", aria: { label: `Delete ${name}` },
    onclick: attempt(() => {
      const points = ready() ? state.points.filter(({ class_id }) => class_id === id).length : 0;
      if (count + points && !confirm(`Delete ${name} and its ${labelled(count + points)}?`)) return null;
      return changeClass(`/${id}`, undefined, "DELETE");
    }),
  }, "×");
  return make("div", { className: "class", data: { class: id, chosen: chosen ? "yes" : "" } }, swatch, pick, rename, remove);
}

function edit(id) {
  const { name } = classOf(id);
  const line = document.querySelector(`.class[data-class="${id}"]`);
  const field = make("input", { type: "text", value: name, maxLength: 80, aria: { label: `New name of ${name}` } });
  let done = false;
  const end = attempt(async (keep) => {
    if (done) return;
    done = true;
    const text = field.value.trim();
    if (keep && text && text !== name) await changeClass(`/${id}`, { name: text }, "PATCH").catch(tell);
    list();
  });
  field.onblur = () => end(true);
  field.onkeydown = (event) => {
    event.stopPropagation();
    if (event.key === "Enter") end(true);
    if (event.key === "Escape") end(false);
  };
  line.querySelector(".pick").replaceWith(field);
  field.select();
}

function list() {
  const counts = new Map();
  const points = state.points.map(({ class_id }) => class_id);
  const given = [...state.labels.values(), ...(ready() ? [] : points)];
  for (const id of given) counts.set(id, (counts.get(id) ?? 0) + 1);
  const areas = Object.values(state.map?.areas ?? {});
  const total = areas.reduce((sum, area) => sum + area, 0);
  const focused = document.activeElement?.closest?.(".class")?.dataset.class;
  $("classes").replaceChildren(...state.classes.map((each, place) => row(each, place, counts, total)));
  if (focused) document.querySelector(`.class[data-class="${focused}"] .pick`)?.focus();
  $("classes-empty").hidden = state.classes.length > 0;
  $("areas").textContent = state.map
    ? `Map of ${labelled(state.labels.size)}, with the area of each class.`
    : given.length && ready() ? `${labelled(given.length)}.` : "";
  const of = points.length === 1 ? "1 point" : `${points.length} points`;
  const outside = points.length ? `${of} in no region, usually where the scene has no data: kept, but not used. Click and Delete to remove.` : "";
  $("points-note").textContent = ready()
    ? `${state.regions.message} ${outside}`.trim()
    : points.length ? `${of}. The map follows when the regions are there.` : "";
}

export function startClasses() {
  const [color, name] = [$("new-color"), $("new-name")];
  color.value = COLOURS[0];
  $("add-class").onsubmit = attempt(async (event) => {
    event.preventDefault();
    const text = name.value.trim();
    if (!text) return;
    const { id } = await changeClass("", { name: text, color: color.value }, "POST");
    name.value = "";
    color.value = freeColour();
    if (state.classes.length === 1 || state.chosen === null) update({ chosen: id ?? null });
  });
  watch(["classes", "labels", "points", "regions", "map", "chosen"], list);
  watch(["classes"], () => (color.value = freeColour()));
}
