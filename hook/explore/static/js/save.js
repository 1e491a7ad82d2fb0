// Saving for other programs, as a job of the server.

import { get, post } from "./api.js";
import { $, attempt, make } from "./dom.js";
import { ready, state, watch } from "./store.js";

let running = false;
let followed = null; // job
let doing = "Saving"; // its step

function show({ state: now, done = 0, message = "", files = [] }) {
  running = now === "running";
  if (running && message) [doing] = message.split(",");
  const text = { running: message || "Saving", failed: `${doing} failed: ${message}`, finished: `Saved in ${state.folder}:` }[now];
  $("job").hidden = false;
  $("job").dataset.state = now;
  $("job-text").textContent = text;
  $("job-bar").hidden = !running;
  $("job-bar").value = done;
  $("job-files").replaceChildren(...files.map((name) => make("li", {}, name)));
  const model = files.find((name) => name.endsWith("checkpoint.pth"))?.replace("/checkpoint.pth", "");
  $("job-use").hidden = !model;
  if (model) $("job-command").textContent = `hook map ${model}/config.py ${model}/checkpoint.pth other_scene.tif other_map.tif`;
  $("save-start").disabled = running;
  const ended = $("save-dialog").open ? "Save…" : now === "failed" ? "Not saved" : "Saved";
  $("save").textContent = running ? `Saving ${Math.floor(100 * done)} %` : ended;
}

/** Show a job of this or another page until it ends. */
async function follow(job) {
  if (job === followed) return;
  [followed, doing] = [job, "Saving"];
  try {
    for (;;) {
      const now = await get(`/api/jobs/${job}`);
      show(now);
      if (!running) return;
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
  } catch (error) {
    show({ state: "failed", message: error.message });
  }
}

async function save(event) {
  event.preventDefault();
  const what = [...new FormData($("save-form")).getAll("what")];
  if (running || !what.length) return;
  const { job } = await post("/api/save", { what });
  await follow(job);
}

export function openSave() {
  if ($("save").disabled || $("save-dialog").open) return;
  for (const box of $("save-form").elements) if (box.name === "what" && box.value !== "labels") box.disabled = !state.map;
  $("save-dialog").showModal();
  if (!running) $("save").textContent = "Save…";
}

export function startSave() {
  $("save").onclick = openSave;
  $("save-close").onclick = () => $("save-dialog").close();
  // What was saved before the labels changed is not news any more.
  $("save-dialog").onclose = () => ($("job").hidden = !running);
  $("save-form").onsubmit = attempt(save);
  watch(["labels", "regions"], () => ($("save").disabled = !state.labels.size || !ready()));
  watch(["job"], () => state.job && follow(state.job.job));
}
