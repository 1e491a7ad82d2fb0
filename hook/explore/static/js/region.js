// One region: what is known of it, its label, regions like it, and the least certain regions.

import { get, picture, post } from "./api.js";
import { $, attempt, make } from "./dom.js";
import { areaText, placeText } from "./grid.js";
import { addPoint, label, removePoint } from "./labels.js";
import { showRegion } from "./view.js";
import { classOf, ready, state, update, watch } from "./store.js";

let wanted = -1; // the newest region asked for: late answers to former ones are dropped

/** Show a region in the panel; with `move` also on the map. */
export async function select(id, move = false) {
  wanted = id;
  if (id === null) return update({ selected: null });
  const region = await get(`/api/regions/${id}`);
  if (wanted !== id) return null;
  update({ selected: region });
  if (move) showRegion(region);
  return region;
}

/** A click on a point, or where there is no region yet: as on a region, but with points. */
async function clickedPoint(id, pixel) {
  const { chosen, points, scene } = state;
  const point = points.find((each) => each.id === id);
  const within = pixel[0] >= 0 && pixel[1] >= 0 && pixel[0] <= scene.width && pixel[1] <= scene.height;
  if (chosen === null || (!point && !within)) return update({ point: id });
  if (point?.class_id === chosen) return removePoint(id);
  return addPoint(point?.at ?? pixel, chosen, point?.id);
}

/** A click on a region: label it with the chosen class, and show it. `point` is the id of a point. */
export const clicked = attempt(async (id, pixel, point) => {
  if (!ready() || (id === null && point !== null)) return clickedPoint(point, pixel);
  update({ point: null });
  if (id === null) return select(null);
  if (state.offered !== null && id !== state.offered) update({ offered: null });
  if (state.chosen !== null) {
    await label([id], state.labels.get(id) === state.chosen ? null : state.chosen, pixel);
  }
  return select(id);
});

const percent = (share) => `${Math.round(100 * share)} %`;

function facts(region) {
  const rows = [];
  const add = (term, ...value) => rows.push(make("dt", {}, term), make("dd", {}, ...value));
  const named = (id) => {
    const of = classOf(id);
    return of && make("span", { className: "tag", color: of.color }, of.name);
  };
  if (region.predicted !== null && classOf(region.predicted))
    add("Map", named(region.predicted), ` ${percent(region.probability)}`);
  if (region.class_name) add("Model", `${region.class_name} ${region.score === null ? "" : percent(region.score)}`);
  for (const [name, score] of Object.entries(region.scores ?? {})) add(name, percent(score));
  const pixels = region.pixels === null ? "" : `${region.pixels.toLocaleString("en")} pixels`;
  add("Area", [areaText(region.area_m2), pixels].filter(Boolean).join(" · "));
  add("Place", placeText(region.at, false));
  return make("dl", { className: "facts" }, ...rows);
}

function bandTable(bands) {
  const most = Math.max(...Object.values(bands).map(({ mean }) => Math.abs(mean ?? 0)), 1e-12);
  const known = Object.entries(bands).filter(([, { mean }]) => mean !== null); // files may lack values
  const rows = known.map(([name, { mean, std }]) => {
    const bar = make("i", { aria: { hidden: true } });
    bar.style.width = `${(100 * Math.abs(mean)) / most}%`;
    const digits = { maximumSignificantDigits: 4 };
    return make("tr", {},
      make("th", { scope: "row" }, name),
      make("td", { className: "bar" }, bar),
      make("td", {}, mean.toLocaleString("en", digits)),
      make("td", { className: "note" }, std === null || std === undefined ? "" : `± ${std.toLocaleString("en", digits)}`));
  });
  return rows.length ? make("table", {}, make("caption", {}, "Band means"), ...rows) : null;
}

function show() {
  const region = state.selected, box = $("region");
  $("region-empty").hidden = region !== null;
  box.hidden = region === null;
  $("similar").disabled = region === null;
  $("region-title").textContent = region ? `Region ${region.id}` : "Region";
  if (!region) return;
  const labels = state.classes.map(({ id, name, color }) =>
    make("button", { type: "button", className: "tag", color, aria: { pressed: state.labels.get(region.id) === id }, onclick: attempt(() => give(id)) }, name));
  if (state.labels.has(region.id))
    labels.push(make("button", { type: "button", className: "quiet", title: "Remove the label (Delete)", onclick: attempt(() => give(null)) }, "Remove label"));
  if (state.offered === region.id)
    labels.push(make("button", { type: "button", className: "quiet", title: "Ask for another region (S)", onclick: attempt(() => offer(true)) }, "Skip"));
  box.replaceChildren(
    facts(region),
    labels.length ? make("div", { className: "row", role: "group", aria: { label: "Label this region" } }, ...labels) : "",
    bandTable(region.bands) ?? "",
  );
}

/** Label the selected region, and go on to the next if it was offered. */
export async function give(classId) {
  const { selected, offered } = state;
  if (!selected) return;
  await label([selected.id], classId, selected.at);
  if (offered === selected.id && classId !== null) await offer();
  else await select(selected.id);
}

/** Remove the selected point, or the label of the selected region. */
export const erase = () => (state.point === null ? give(null) : removePoint(state.point));

/** Offer the least certain region that is not labelled or left out. */
export async function offer(skip = false) {
  const skipped = new Set(state.skipped);
  if (skip && state.offered !== null) skipped.add(state.offered);
  const rest = (state.map?.uncertain ?? []).filter((id) => !state.labels.has(id) && !skipped.has(id));
  update({ skipped, offered: rest[0] ?? null, chosen: null });
  if (!rest.length) return;
  await select(rest[0], true);
  $("region").scrollIntoView({ block: "nearest" }); // in a small window it is below
}

/** A thumbnail that selects its region. */
function thumb(id, words, caption, color = "") {
  const image = make("img", { alt: "", width: 64, height: 64 });
  picture(`/api/thumbnail/${id}.png?size=96&bands=${state.bands.join(",")}`).then(
    (address) => (image.src = address), () => image.classList.add("missing"));
  return make("button", { type: "button", className: "thumb", data: { region: id }, aria: { label: words }, onclick: attempt(() => select(id, true)) },
    image, make("small", { color }, caption));
}

const similarTo = async (query) => {
  const { found } = await post("/api/similar", { ...query, k: Number($("k").value) });
  update({ found });
};

let query = null; // the last search, repeated when the slider moves

export const findSimilar = attempt(async () => {
  if (!state.selected) return;
  query = { regions: [state.selected.id] };
  await similarTo(query);
});

export function togglePolygon() {
  if (!ready()) return;
  update({ drawing: state.drawing ? null : [], offered: null });
}

/** The polygon is complete: search with it. */
export const finishPolygon = attempt(async () => {
  const corners = state.drawing.filter(([c, r], k, all) => !k || Math.hypot(c - all[k - 1][0], r - all[k - 1][1]) > 1e-6);
  update({ drawing: null });
  if (corners.length < 3) throw new Error("A polygon needs three corners or more.");
  query = { polygon: corners };
  await similarTo(query);
});

export function clearFound() {
  query = null;
  update({ found: [] });
}

const uncertain = () =>
  (state.map?.uncertain ?? []).filter((id) => !state.labels.has(id) && !state.skipped.has(id)).slice(0, 5);

export function startRegion() {
  const ofRegions = $("region-empty").textContent;
  watch(["regions"], () => {
    $("region-empty").textContent = ready() ? ofRegions : "The regions are not there yet. Each point becomes the label of the region around it.";
    $("polygon").disabled = !ready();
  });
  watch(["selected", "labels", "classes", "map", "offered"], show);
  watch(["found", "bands"], () => {
    $("found-box").hidden = !state.found.length;
    $("found").replaceChildren(...state.found.map(({ id, similarity }, k) =>
      thumb(id, `Region ${id}, number ${k + 1}, similarity ${similarity.toFixed(2)}`, similarity.toFixed(2))));
  });
  watch(["map", "labels", "skipped", "bands"], () => {
    const regions = uncertain();
    $("next-section").hidden = !regions.length;
    $("next").replaceChildren(...regions.map((id) => {
      const of = state.classes[state.map.classes[id]];
      const p = percent(state.map.probability[id] / 255);
      return thumb(id, `Region ${id}, ${of?.name} to ${p}`, `${of?.name}?`, of?.color);
    }));
  });
  watch(["found", "chosen", "classes"], () => {
    const of = classOf(state.chosen);
    $("label-found").disabled = !of;
    $("label-found").textContent = of ? `Label these ${state.found.length} as ${of.name}` : "Choose a class to label these";
  });
  watch(["drawing"], () => {
    $("polygon").setAttribute("aria-pressed", String(state.drawing !== null));
    $("polygon").textContent = state.drawing ? "Cancel polygon" : "Draw a polygon";
  });
  $("similar").onclick = findSimilar;
  $("polygon").onclick = togglePolygon;
  $("clear-found").onclick = clearFound;
  $("label-found").onclick = attempt(() => label(state.found.map(({ id }) => id), state.chosen));
  $("start-next").onclick = attempt(() => offer());
  $("k").oninput = () => ($("k-value").textContent = $("k").value);
  $("k").onchange = attempt(async () => query && similarTo(query));
}
