// Saving for other programs, as a job of the server.

import { get, post } from "./api.js";
import { $, attempt, make } from "./dom.js";
import { ready, state, watch } from "./store.js";

let running = false;

function show({ state: now, done = 0, message = "", files = [] }) {
  $("job").hidden = false;
  $("job").dataset.state = now;
  $("job-text").textContent = message || { finished: "Saved.", failed: "This failed.", running: "Saving…" }[now] || "Saving…";
  $("job-bar").hidden = now !== "running";
  $("job-bar").value = done;
  $("job-files").replaceChildren(...files.map((name) => make("li", {}, name)));
}

async function save(event) {
  event.preventDefault();
  const what = [...new FormData($("save-form")).getAll("what")];
  if (running || !what.length) return;
  running = true;
  $("save-start").disabled = true;
  try {
    const { job } = await post("/api/save", { what });
    for (;;) {
      const now = await get(`/api/jobs/${job}`);
      show(now);
      if (now.state !== "running") return;
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
  } finally {
    running = false;
    $("save-start").disabled = false;
  }
}

export function openSave() {
  if ($("save").disabled || $("save-dialog").open) return;
  for (const box of $("save-form").elements) if (box.name === "what" && box.value !== "labels") box.disabled = !state.map;
  if (!running) $("job").hidden = true;
  $("save-dialog").showModal();
}

export function startSave() {
  $("save").onclick = openSave;
  $("save-close").onclick = () => $("save-dialog").close();
  $("save-form").onsubmit = attempt(save);
  watch(["labels", "regions"], () => ($("save").disabled = !state.labels.size || !ready()));
}
