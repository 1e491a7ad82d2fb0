// The page of `hook explore`: starts its parts.

import { listen } from "./api.js";
import { startClasses } from "./classes.js";
import { $, attempt, tell } from "./dom.js";
import { startHint } from "./hint.js";
import { startKeys } from "./keys.js";
import { hear, readSession, refreshMap, startUndo } from "./labels.js";
import { startLayers } from "./layers.js";
import { clicked, finishPolygon, startRegion } from "./region.js";
import { startSave } from "./save.js";
import { state, update } from "./store.js";
import { startView } from "./view.js";

async function start() {
  await readSession();
  $("title").textContent = state.title;
  document.title = `${state.title} · HOOK explore`;
  startLayers();
  startClasses();
  startRegion();
  startSave();
  startUndo();
  startHint();
  startKeys();
  startView({ click: clicked, finish: finishPolygon });
  listen(attempt(hear), async (lost) => {
    update({ lost });
    if (!lost) await attempt(readSession)().then(refreshMap); // what was told before it was heard
  });
}

start().catch(tell);
