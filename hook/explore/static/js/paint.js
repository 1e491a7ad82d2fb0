// The colour of each region.

import { WIDE } from "./idtiles.js";
import { state } from "./store.js";

const NONE = 255; // of classes in the answer of /api/map
const FOUND = [255, 0, 200];
const RAMP = [[253, 231, 37], [94, 201, 98], [33, 145, 140], [59, 82, 139], [68, 1, 84]].reverse();

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/** A colour between dark blue (0) and yellow (1). */
export function ramp(share) {
  const at = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
  const low = Math.min(Math.floor(at), RAMP.length - 2);
  return RAMP[low].map((value, k) => Math.round(value + (RAMP[low + 1][k] - value) * (at - low)));
}

/** What regions show, without the pointer: 0xAABBGGRR by id, which begin at 1, in rows of `WIDE`. */
export function colours() {
  const { map, mode, found, classes, labels } = state;
  const count = state.regions.count ?? 0;
  const table = new Uint32Array(WIDE * Math.ceil((count + 1) / WIDE));
  const colours = table.subarray(1, count + 1);
  const pack = ([r, g, b], alpha) => ((Math.round(alpha * 255) << 24) | (b << 16) | (g << 8) | r) >>> 0;
  const dim = found.length ? 0.25 : 1;
  const ofClass = new Map(classes.map((each) => [each.id, pack(rgb(each.color), dim)]));
  if (map && mode === "classes") {
    const palette = new Uint32Array(256);
    classes.forEach((each, index) => (palette[index] = ofClass.get(each.id)));
    palette[NONE] = 0;
    for (let k = 0; k < count; k++) colours[k] = palette[map.classes[k] ?? NONE];
  } else if (map && mode === "probability") {
    const palette = Uint32Array.from({ length: 256 }, (_, p) => pack(ramp(p / 255), dim));
    for (let k = 0; k < count; k++) if (map.classes[k] !== NONE) colours[k] = palette[map.probability[k]];
  }
  if (mode !== "probability" && mode !== "image")
    for (const [region, id] of labels) if (region < count) colours[region] = ofClass.get(id) ?? 0;
  for (const { id, similarity } of found) colours[id] = pack(FOUND, 0.45 + 0.55 * Math.max(similarity, 0));
  return table;
}
