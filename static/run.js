// A run that is under way: its progress, stages and log, asked for every second while the page is seen.

const live = document.querySelector("[data-run]");
const at = (name) => document.querySelector(`[data-${name}]`);
const log = at("log");
let failures = 0;

function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`.replace(" 0 s", "");
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

function badge(state) {
  return document.getElementById(`state-${state}`).content.firstElementChild.cloneNode(true);
}

function showStages(stages) {
  const list = at("stages");
  if (!list) return stages.length && location.reload(); // the list is made by the server, once it is known
  for (const stage of stages) {
    const item = list.querySelector(`[data-stage="${CSS.escape(stage.name)}"]`);
    if (!item) continue;
    const shown = item.querySelector("[data-state]");
    if (shown.dataset.state !== stage.state) shown.replaceWith(badge(stage.state));
    if (!stage.started_at) continue;
    const end = stage.finished_at ? new Date(stage.finished_at) : stage.state === "running" ? new Date() : null;
    if (end) item.querySelector("[data-took]").textContent = duration(Math.max(0, (end - new Date(stage.started_at)) / 1000));
  }
}

function showLog(lines) {
  const last = Number(log.dataset.last);
  const fresh = lines.filter((line) => line.id > last);
  if (!fresh.length) return;
  at("no-log")?.remove();
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  for (const line of fresh) {
    const row = document.createElement("span");
    row.className = "log-line";
    const time = document.createElement("time");
    time.textContent = new Date(line.at).toLocaleTimeString("en-GB");
    row.append(time, " ");
    if (line.stage) {
      const stage = document.createElement("b");
      stage.textContent = line.stage;
      row.append(stage, " ");
    }
    row.append(`${line.text}\n`);
    log.append(row);
  }
  log.dataset.last = fresh.at(-1).id;
  if (atEnd) log.scrollTop = log.scrollHeight;
}

// The curves come as the server draws them; a chart and a table that are in the page already are filled anew.
async function showCurves(stages) {
  const place = at("curves");
  const now = JSON.stringify(stages.map((stage) => stage.curves));
  if (!place || place.shown === now) return;
  place.shown = now;
  const answer = await fetch(place.dataset.curves);
  if (!answer.ok) return;
  const fresh = document.createElement("template");
  fresh.innerHTML = await answer.text();
  const parts = [...fresh.content.querySelectorAll("[data-figure] + script, details")];
  const known = parts.map((part) => document.getElementById(part.id));
  if (known.every(Boolean)) {
    parts.forEach((part, index) => {
      if (part.tagName === "SCRIPT") known[index].textContent = part.textContent;
      else known[index].replaceChildren(...part.childNodes);
    });
  } else place.replaceChildren(fresh.content);
  document.dispatchEvent(new Event("figureschange"));
}

async function look() {
  if (document.hidden) return;
  let run;
  try {
    const answer = await fetch(`${live.dataset.run}?after=${log.dataset.last}`, { headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error(String(answer.status));
    run = await answer.json();
    failures = 0;
  } catch {
    failures += 1;
    at("offline").hidden = failures < 3;
    return;
  }
  at("offline").hidden = true;
  if (["succeeded", "failed", "cancelled"].includes(run.state)) return location.reload();
  const state = document.getElementById("run-state");
  if (state.dataset.state !== run.state) {
    const fresh = badge(run.state);
    fresh.id = "run-state";
    state.replaceWith(fresh);
  }
  const message = run.message || (run.state === "queued" ? "Waiting for a free worker." : "Starting…");
  if (at("message").textContent !== message) at("message").textContent = message;
  at("progress").value = run.progress;
  at("percent").textContent = `${Math.floor(run.progress * 100)} %`;
  at("left").textContent = run.seconds_left == null ? "" : `${duration(run.seconds_left)} left`;
  showStages(run.stages ?? []);
  showLog(run.log ?? []);
  showCurves(run.stages ?? []);
}

log.scrollTop = log.scrollHeight;
look();
setInterval(look, 1000);
document.addEventListener("visibilitychange", look);
