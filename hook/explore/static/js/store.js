// What the page knows. Parts of the page read `state` and are told of the fields they depend on.

export const state = {
  title: "",
  revision: -1,
  scene: null,
  regions: { state: "waiting", done: 0, count: 0, message: "" },
  classes: [], // {id, name, color}, in the order of the server
  labels: new Map(), // region -> class id
  places: new Map(), // region -> [column, row] in it
  map: null, // {classes, probability: Uint8Array by region, uncertain, areas}
  chosen: null, // id of the class that a click gives
  selected: null, // answer of /api/regions/{id}
  found: [], // {id, similarity, at}, nearest first
  offered: null, // region whose class is asked for
  skipped: new Set(), // uncertain regions that the user left out
  drawing: null, // corners [column, row] of a polygon that is being drawn
  mode: "classes", // or "image", "probability"
  bands: [],
  outlines: true,
  opacity: 0.6,
  compare: false,
  lost: false, // the server does not answer
};

const listeners = [];

/** Call `listener` now and after each change of one of these fields. */
export function watch(fields, listener) {
  listeners.push([fields, listener]);
  listener();
}

/** Change fields of the state. */
export function update(changes) {
  Object.assign(state, changes);
  const changed = Object.keys(changes);
  for (const [fields, listener] of listeners) if (changed.some((name) => fields.includes(name))) listener();
}

export const classOf = (id) => state.classes.find((each) => each.id === id) ?? null;
