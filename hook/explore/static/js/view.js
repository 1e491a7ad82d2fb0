// The map: tiles of the scene, regions, labels, drawing, swipe.

import { Map as MapLibre } from "../vendor/maplibre-gl.mjs";
import { headers } from "./api.js";
import { $ } from "./dom.js";
import { pixelsPerDot, placeText, scaleBar, side, toPixel, toWorld } from "./grid.js";
import { RegionLayer } from "./idtiles.js";
import { colours } from "./paint.js";
import { classOf, ready, state, update, watch } from "./store.js";

const EMPTY = { type: "FeatureCollection", features: [] };
const at = (path) => `${location.origin}${path}`; // MapLibre's workers need whole addresses

const regions = new RegionLayer();
let map;

const sceneTiles = () => [at(`/api/tiles/scene/{z}/{x}/{y}.png?bands=${state.bands.join(",")}`)];
const collection = (features) => ({ type: "FeatureCollection", features });
const feature = (type, coordinates, properties = {}) => ({
  type: "Feature", properties, geometry: { type, coordinates },
});

function style() {
  const { zmax } = state.scene;
  const geojson = { type: "geojson", data: EMPTY };
  const lines = (id, source, color, width, more = {}) => ({
    id, source, type: "line", layout: { "line-join": "round", "line-cap": "round" },
    paint: { "line-color": color, "line-width": width, ...more },
  });
  return {
    version: 8,
    sources: {
      scene: { type: "raster", tiles: sceneTiles(), tileSize: 256, maxzoom: zmax },
      selected: geojson, labels: geojson, found: geojson, drawing: geojson,
    },
    layers: [
      { id: "scene", type: "raster", source: "scene", paint: { "raster-fade-duration": 0 } },
      lines("selected-edge", "selected", "#000", 5, { "line-opacity": 0.65 }),
      lines("selected", "selected", "#fff", 2.5),
      {
        id: "labels", type: "circle", source: "labels",
        paint: {
          "circle-radius": ["interpolate", ["linear"], ["zoom"], 0, 3, 6, 6],
          "circle-color": ["get", "color"], "circle-stroke-color": ["get", "edge"],
          "circle-stroke-width": ["get", "width"],
        },
      },
      lines("drawing", "drawing", "#ffd400", 2.5, { "line-dasharray": [2, 1.5] }),
      {
        id: "corners", type: "circle", source: "drawing", filter: ["==", ["geometry-type"], "Point"],
        paint: { "circle-radius": 4, "circle-color": "#ffd400", "circle-stroke-width": 1 },
      },
    ],
  };
}

/** Room around the scene for what lies on the map. */
const fit = () => (innerWidth > 700 ? { top: 76, bottom: 90, left: 20, right: 20 } : { top: 44, bottom: 80, left: 8, right: 8 });

const sceneBounds = () => [toWorld([0, state.scene.height]), toWorld([state.scene.width, 0])];

/** Make the map; `click(region or null, pixel, point or null)` and `finish()` are told of clicks and polygons. */
export function startView({ click, finish }) {
  const { zmax } = state.scene;
  const corners = sceneBounds();
  map = new MapLibre({
    container: "map", style: style(), bounds: corners, fitBoundsOptions: { padding: fit() },
    minZoom: -2, maxZoom: zmax + 4, maxPitch: 0, attributionControl: false, fadeDuration: 0,
    dragRotate: false, pitchWithRotate: false, touchPitch: false, doubleClickZoom: false,
    renderWorldCopies: false,
    transformConstrain: (center, zoom) => {
      // The centre of the window stays on the scene.
      const [west, south] = corners[0], [east, north] = corners[1];
      center.lng = Math.min(Math.max(center.lng, west), east);
      center.lat = Math.min(Math.max(center.lat, south), north);
      return { center, zoom: Math.min(Math.max(zoom, -2), zmax + 4) };
    },
    transformRequest: (url) => ({ url, headers }),
  });
  map.touchZoomRotate.disableRotation();
  map.keyboard.disableRotation();
  map.getCanvas().setAttribute(
    "aria-label", "Map. Arrow keys move, plus and minus zoom, Enter takes the region at the cross.");

  map.on("style.load", () => map.addLayer(regions, "selected-edge")); // again after a lost context
  map.on("load", () => {
    redraw();
    sharpen();
    document.body.dataset.loaded = "yes";
  });
  map.on("error", ({ error }) => { if (error?.status !== 404) console.warn("map:", error?.message); });
  map.on("mousemove", (event) => {
    regions.point(regions.regionAt(event.point));
    $("place").value = placeText(toPixel(event.lngLat));
  });
  map.on("mouseout", () => { regions.point(null); $("place").value = ""; });
  map.on("click", (event) => press(event.point, event.lngLat, click));
  map.on("dblclick", () => state.drawing && finish());
  map.on("move", showScale);
  map.on("zoom", sharpen);
  const stage = $("stage");
  stage.addEventListener("pointermove", () => delete stage.dataset.keys);
  map.getCanvas().addEventListener("keydown", (event) => {
    if (/^(Arrow|[+=-]$|Enter| )/.test(event.key)) stage.dataset.keys = "yes"; // shows the cross
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    event.stopPropagation();
    if (event.key === "Enter" && state.drawing) return finish();
    const center = map.getCenter();
    press(map.project(center), center, click);
  });
  showScale();
  watch(["bands"], () => map.getSource("scene")?.setTiles(sceneTiles()));
  watch(["labels"], hold);
  watch(["map"], release);
  watch(["mode", "found", "classes", "labels", "regions"], () => held || regions.paint(colours()));
  watch(["opacity", "outlines"], () => map.triggerRepaint());
  watch(["labels", "places", "points", "point", "regions", "classes", "found", "selected", "drawing"], redraw);
  watch(["drawing", "chosen"], () => { map.getCanvas().style.cursor = state.drawing || state.chosen ? "crosshair" : "pointer"; });
  $("zoom-in").onclick = () => map.zoomIn();
  $("zoom-out").onclick = () => map.zoomOut();
  $("zoom-all").onclick = showAll;
  startSwipe();
}

/** The MapLibre map and its regions, for tests and the console. */
export const theMap = () => map;
export const theRegions = () => regions;

const paintProperty = (...given) => map.getLayer(given[0]) && map.setPaintProperty(...given);

function press(point, lngLat, click) {
  const pixel = toPixel(lngLat);
  if (state.drawing) update({ drawing: [...state.drawing, pixel] });
  else click(regions.regionAt(point), pixel, pointAt(point));
}

/** The id of the point at or near a place of the window. */
function pointAt({ x, y }) {
  if (!map.getLayer("labels")) return null;
  const near = map.queryRenderedFeatures([[x - 3, y - 3], [x + 3, y + 3]], { layers: ["labels"] });
  return near.find(({ properties }) => properties.point)?.properties.point ?? null;
}

/** Pixels of the scene stay squares where one is larger than a pixel of the screen. */
function sharpen() {
  const large = pixelsPerDot(map.getZoom()) * devicePixelRatio < 1;
  paintProperty("scene", "raster-resampling", large ? "nearest" : "linear");
}

function showScale() {
  const [dots, text] = scaleBar(map.getZoom(), 120);
  const bar = $("scale");
  bar.hidden = false;
  bar.firstElementChild.style.width = `${dots}px`;
  bar.lastElementChild.textContent = text;
}

const drawn = new Map(); // source -> what it shows, as text

function put(source, features) {
  const data = collection(features), text = JSON.stringify(features);
  if (drawn.get(source) === text || !map.getSource(source)) return;
  drawn.set(source, text);
  map.getSource(source).setData(data);
}

let held = 0; // a timer, while new labels wait for their map

/** Draw new labels and their map at once: without a graphics card a frame takes a third of a second. */
function hold() {
  if (state.map) held ||= setTimeout(release, 400);
}

function release() {
  clearTimeout(held);
  held = 0;
  redraw();
  regions.paint(colours());
}

function redraw() {
  if (held) return;
  const { selected, drawing, labels, places, points } = state;
  const rings = (selected?.outline ?? []).map((ring) => ring.map(toWorld));
  put("selected", rings.length ? [feature("MultiLineString", rings)] : []);
  const dot = (place, id, more = {}) =>
    feature("Point", toWorld(place), { color: classOf(id)?.color ?? "#888", edge: "#fff", width: 1.5, ...more });
  // Points that are in no region are hollow.
  const hollow = (id) => (ready() ? { color: "rgba(0, 0, 0, 0)", edge: classOf(id)?.color ?? "#888" } : {});
  put("labels", [
    ...[...labels].filter(([region]) => places.has(region)).map(([region, id]) => dot(places.get(region), id)),
    ...points.map(({ id, at: place, class_id }) =>
      dot(place, class_id, { ...hollow(class_id), point: id, ...(id === state.point ? { width: 4 } : {}) })),
  ]);
  const corners = (drawing ?? []).map(toWorld);
  const line = corners.length > 1 ? [feature("LineString", [...corners, corners[0]])] : [];
  put("drawing", [...line, ...corners.map((corner) => feature("Point", corner))]);
}

/** Bring a region into the view, with its surroundings. */
export function showRegion({ bounds, at: place }) {
  const center = toWorld(place);
  const [west, north, east, south] = bounds ?? [...place, ...place];
  const dots = Math.min(map.getContainer().clientWidth, map.getContainer().clientHeight) / 5;
  const size = Math.max(east - west, south - north, 8);
  const zoom = Math.log2((dots * 256 * 2 ** state.scene.zmax) / (size * 512));
  const options = { center, zoom: bounds ? Math.min(zoom, state.scene.zmax + 2) : map.getZoom() };
  map.easeTo({ ...options, duration: still() ? 0 : 350 });
}

/** Bring the whole scene into the view. */
export const showAll = () => map.fitBounds(sceneBounds(), { padding: fit(), duration: still() ? 0 : 350 });

const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

function startSwipe() {
  const handle = $("swipe");
  let swipeAt = 0.5;
  const move = (share) => {
    swipeAt = Math.min(Math.max(share, 0), 1);
    handle.style.left = `${100 * swipeAt}%`;
    handle.setAttribute("aria-valuenow", Math.round(100 * swipeAt));
    regions.swipe = state.compare ? swipeAt : 0;
    map.triggerRepaint();
  };
  handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
  handle.addEventListener("pointermove", (event) => {
    const box = $("stage").getBoundingClientRect();
    if (handle.hasPointerCapture(event.pointerId)) move((event.clientX - box.left) / box.width);
  });
  handle.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.05, ArrowRight: 0.05, Home: -1, End: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    move(swipeAt + step);
  });
  watch(["compare"], () => {
    handle.hidden = !state.compare;
    move(swipeAt);
  });
}
