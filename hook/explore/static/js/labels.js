// Changes of classes and labels, each on the server's disk before the page shows it, and the map
// that follows from them.

import { get, post } from "./api.js";
import { $, attempt } from "./dom.js";
import { ready, state, update, watch } from "./store.js";

let last = Promise.resolve();

/** Run changes one after the other, so that a fast hand cannot overtake the server. */
function queue(change) {
  const next = last.then(change);
  last = next.catch(() => {});
  return next;
}

let sent = 0, shown = 0; // number of the last request, and of the one whose answer is shown

/** Read the session: all of it, as another page may have changed it. */
export async function readSession() {
  const number = ++sent;
  const session = await get("/api/session");
  if (number < shown || session.revision < state.revision) return; // overtaken by a later one
  shown = number;
  const numbered = (table) => new Map(Object.entries(table ?? {}).map(([id, value]) => [Number(id), value]));
  update({
    ...session,
    labels: numbered(session.labels),
    places: numbered(session.places),
    bands: state.bands.length ? state.bands : session.scene.rgb,
    chosen: session.classes.some(({ id }) => id === state.chosen) ? state.chosen : null,
    point: session.points.some(({ id }) => id === state.point) ? state.point : null,
  });
}

/** Give regions a class, or none (null). `pixel` is where the user pointed. */
export function label(regions, classId, pixel = null) {
  return queue(async () => {
    const labels = regions.map((region) => ({ region, class_id: classId }));
    const { revision } = await post("/api/labels", { labels });
    const known = regions.every((region) => pixel || state.places.has(region));
    if (known) {
      const [changed, places] = [new Map(state.labels), new Map(state.places)];
      for (const region of regions) {
        if (classId === null) changed.delete(region);
        else changed.set(region, classId);
        if (pixel && !places.has(region)) places.set(region, pixel);
      }
      update({ labels: changed, places, revision });
    } else await readSession();
    refreshMap();
  });
}

/** Set a point of a class, instead of another point if one is given. */
export const addPoint = (at, classId, replaced = null) =>
  queue(async () => {
    const { id } = await post("/api/points", { at, class_id: classId, replaced });
    await readSession();
    update({ point: id });
  });

export const removePoint = (id) =>
  queue(async () => {
    await post(`/api/points/${id}`, undefined, "DELETE").finally(readSession);
  });

export const undo = attempt(() =>
  queue(async () => {
    const { labels } = await post("/api/undo");
    await readSession();
    refreshMap();
    return labels;
  }));

/** Add, change or delete a class. */
export const changeClass = (path, body, method) =>
  queue(async () => {
    const answer = await post(`/api/classes${path}`, body, method);
    await readSession();
    if (method !== "PATCH") refreshMap();
    return answer;
  });

let asked = false, running = false;

/** Compute the map of the newest labels; what changes meanwhile is in the next one. */
export async function refreshMap() {
  asked = true;
  if (running) return;
  running = true;
  document.body.dataset.map = "busy";
  while (asked) {
    asked = false;
    await attempt(readMap)();
  }
  running = false;
  document.body.dataset.map = state.map ? "ready" : "none";
  document.body.dataset.revision = state.revision;
}

async function readMap() {
  if (!ready() || new Set(state.labels.values()).size < 2) {
    if (state.map) update({ map: null });
    return;
  }
  const answer = await get("/api/map").catch((error) => {
    if (error.status === 409) return null;
    throw error;
  });
  if (!answer) return update({ map: null });
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  update({
    map: {
      classes: bytes(answer.classes),
      probability: bytes(answer.probability),
      uncertain: answer.uncertain,
      areas: answer.areas_m2,
    },
  });
}

/** Take part in what the server tells: progress of regions, changes by another page. */
export async function hear(event) {
  if (event.type === "picture") update({ picture: event.done });
  else if (event.type === "regions") {
    const before = state.regions;
    update({ regions: { ...before, ...event } });
    if (event.state === "ready" && before.state !== "ready") {
      await readSession();
      refreshMap();
    }
  } else if (event.type === "job") {
    update({ job: event });
  } else if (event.type === "revision") {
    // In the queue, as the answer to a change of this page may come after the event of it.
    await queue(async () => {
      if (event.revision <= state.revision) return;
      await readSession();
      refreshMap();
    });
  }
}

export function startUndo() {
  $("undo").onclick = undo;
  let any = false; // a label was there: removing the last one can be undone, too
  watch(["labels", "points"], () => ($("undo").disabled = !(any ||= state.labels.size + state.points.length > 0)));
}
