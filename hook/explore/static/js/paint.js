// The colour of each region. Colours are feature states: polygons are sent once, and only regions
// whose colour changes are touched.

import { state, watch } from "./store.js";

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

/** Keeps the colours of a map's regions as the state says. */
export class Painter {
  constructor(setState) {
    this.setState = setState; // (region, colour as text)
    this.shown = new Uint32Array(0); // colour of each region as 0xAARRGGBB, 0 for none
    this.hover = -1;
    watch(["map", "mode", "found", "classes", "labels", "regions"], () => this.paint());
  }

  /** Colour all regions; returns how many changed. */
  paint() {
    const count = state.regions.count ?? 0;
    if (this.shown.length !== count) {
      const old = this.shown;
      this.shown = new Uint32Array(count);
      this.shown.set(old.subarray(0, count));
    }
    const colours = this.colours();
    let changed = 0;
    for (let region = 0; region < count; region++) changed += this.put(region, colours[region]);
    return changed;
  }

  /** What each region shows, without the pointer: (regions,) of 0xAARRGGBB. */
  colours() {
    const { map, mode, found, classes, labels } = state;
    const colours = new Uint32Array(this.shown.length);
    const pack = ([r, g, b], alpha) => ((Math.round(alpha * 255) << 24) | (r << 16) | (g << 8) | b) >>> 0;
    const dim = found.length ? 0.25 : 1;
    const ofClass = new Map(classes.map((each) => [each.id, pack(rgb(each.color), dim)]));
    if (map && mode === "classes") {
      const palette = new Uint32Array(256);
      classes.forEach((each, index) => (palette[index] = ofClass.get(each.id)));
      palette[NONE] = 0;
      for (let k = 0; k < colours.length; k++) colours[k] = palette[map.classes[k] ?? NONE];
    } else if (map && mode === "probability") {
      const palette = Uint32Array.from({ length: 256 }, (_, p) => pack(ramp(p / 255), dim));
      for (let k = 0; k < colours.length; k++) if (map.classes[k] !== NONE) colours[k] = palette[map.probability[k]];
    }
    if (mode !== "probability" && mode !== "image")
      for (const [region, id] of labels) if (region < colours.length) colours[region] = ofClass.get(id) ?? 0;
    for (const { id, similarity } of found) colours[id] = pack(FOUND, 0.45 + 0.55 * Math.max(similarity, 0));
    return colours;
  }

  put(region, colour) {
    if (this.shown[region] === colour) return 0;
    this.shown[region] = colour;
    this.send(region);
    return 1;
  }

  send(region) {
    let colour = this.shown[region];
    if (region === this.hover) colour = colour ? (0xff000000 | lighter(colour)) >>> 0 : 0x70ffffff;
    const alpha = ((colour >>> 24) / 255).toFixed(2);
    this.setState(region, `rgba(${(colour >>> 16) & 255},${(colour >>> 8) & 255},${colour & 255},${alpha})`);
  }

  /** Brighten the region under the pointer; -1 for none. */
  point(region) {
    if (region === this.hover) return;
    const left = this.hover;
    this.hover = region;
    for (const each of [left, region]) if (each >= 0 && each < this.shown.length) this.send(each);
  }
}

const lighter = (colour) =>
  [16, 8, 0].reduce((sum, shift) => sum | ((((colour >>> shift) & 255) + 510) / 3) << shift, 0);
