// What the page knows. Parts of the page read `state` and are told of the fields they depend on.

export const state = {
  title: "",
  folder: "", // of the files that are saved
  job: null, // that saves them: the latest of any page
  revision: -1,
  scene: null,
  picture: 1, // share of a scene without overviews that was read for its first picture
  regions: { state: "waiting", done: 0, count: 0, message: "" },
  classes: [], // {id, name, color}, in the order of the server
  labels: new Map(), // region -> class id
  places: new Map(), // region -> [column, row] in it
  points: [], // {id, at: [column, row], class_id} in the order of clicks; with regions, those in none
  point: null, // id of the selected point
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

/** Whether there are regions to label; points are set meanwhile. */
export const ready = () => state.regions.state === "ready";

export const classOf = (id) => state.classes.find((each) => each.id === id) ?? null;
