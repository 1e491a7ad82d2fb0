// The scene's pixels in MapLibre's world, and in the scene's own coordinates.
//
// The square world of zoom 0 covers `side` x `side` pixels of the scene, whose corner is the
// north-west corner of the world. Longitudes and latitudes have no other meaning here.

import { state } from "./store.js";

export const side = () => 256 * 2 ** state.scene.zmax;

export function toWorld([column, row]) {
  const y = row / side();
  return [
    (column / side()) * 360 - 180,
    (Math.atan(Math.exp(Math.PI * (1 - 2 * y))) * 360) / Math.PI - 90,
  ];
}

export function toPixel({ lng, lat }) {
  const y = (1 - Math.log(Math.tan(((lat + 90) * Math.PI) / 360)) / Math.PI) / 2;
  return [((lng + 180) / 360) * side(), y * side()];
}

/** Pixels of the scene in one pixel of the screen at a zoom of the map, whose world is 512 * 2^zoom. */
export const pixelsPerDot = (zoom) => side() / (512 * 2 ** zoom);

/** Coordinates of a pixel position in the scene's CRS; null without one. */
export function toScene([column, row]) {
  const t = state.scene.transform;
  if (!t) return null;
  return [t[0] * column + t[1] * row + t[2], t[3] * column + t[4] * row + t[5]];
}

const grouped = (value, digits) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

/** A position as text: the scene's coordinates, else column and row. */
export function placeText(pixel, withCrs = true) {
  const [column, row] = pixel.map(Math.floor);
  const { width, height, unit, crs } = state.scene;
  if (column < 0 || row < 0 || column >= width || row >= height) return "";
  const place = toScene(pixel);
  if (!place) return `column ${column}, row ${row}`;
  const digits = unit?.startsWith("deg") ? 6 : 1;
  return `x ${grouped(place[0], digits)}  y ${grouped(place[1], digits)}${withCrs && crs ? `  ${crs}` : ""}`;
}

export function areaText(squareMetres) {
  if (squareMetres === null || squareMetres === undefined) return "";
  if (squareMetres >= 1e6) return `${grouped(squareMetres / 1e6, 2)} km²`;
  if (squareMetres >= 1e4) return `${grouped(squareMetres / 1e4, 2)} ha`;
  return `${grouped(squareMetres, squareMetres < 10 ? 1 : 0)} m²`;
}

/** A round length that is at most `dots` pixels of the screen long: [dots, text]. */
export function scaleBar(zoom, dots) {
  const { transform, unit } = state.scene;
  const metric = transform && /^(m|metre|meter)$/.test(unit ?? "");
  const perDot = pixelsPerDot(zoom) * (metric ? Math.hypot(transform[0], transform[3]) : 1);
  const most = perDot * dots;
  const power = 10 ** Math.floor(Math.log10(most));
  const length = power * [5, 2, 1].find((factor) => factor * power <= most);
  const text = !metric ? `${length} px` : length >= 1000 ? `${length / 1000} km` : `${length} m`;
  return [length / perDot, text];
}
