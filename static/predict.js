// What the recipe will give, before anything runs.

const at = (id) => document.getElementById(`prediction-${id}`);
const whole = new Intl.NumberFormat("en-US");

export function bytes(size) {
  for (const [divisor, unit] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (size >= divisor) {
      const value = size / divisor;
      return `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${unit}`;
    }
  }
  return `${size} B`;
}

// 40 → "40 s", 75 → "1 min 15 s", 4000 → "1 h 6 min".
function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ${Math.round(seconds % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// Three digits of what may be tiny.
export const significant = (value) => (value !== 0 && value < 0.0001 ? value.toExponential(2).replace(/\.?0+e/, "e") : String(Number(value.toPrecision(3))));

const percent = (share) => `${(share * 100).toFixed(1)} %`;

const START = "Start run";

// Shows the error, where there is one, over what was there before.
function refused({ error }) {
  at("error").hidden = !error;
  document.getElementById("prediction").classList.toggle("stale", Boolean(error));
  if (!error) return false;
  at("error").querySelector("p").textContent = error.message;
  at("mini").textContent = "This recipe does not work yet.";
  document.querySelector("#start span").textContent = document.getElementById("prediction").matches(".of-study") ? "Start study" : START;
  return true;
}

// Of a study, before it starts: its runs with their sizes, the time and the bytes that they take.
export function showPlan(answer) {
  if (refused(answer)) return;
  document.getElementById("prediction").classList.add("of-study");
  const sizes = answer.runs.map(({ size_bytes }) => size_bytes);
  const runs = `${whole.format(sizes.length)} run${sizes.length === 1 ? "" : "s"}`;
  at("after").textContent = runs;
  at("after").title = "";
  const [least, most] = [Math.min(...sizes), Math.max(...sizes)];
  at("before").textContent = least === most ? `of ${bytes(least)}` : `of ${bytes(least)} to ${bytes(most)}`;
  const time = answer.seconds === null ? "not known before one has run" : `about ${duration(answer.seconds)}`;
  at("times").textContent = answer.seconds === null ? "" : time;
  at("mini").textContent = answer.seconds === null ? `A study of ${runs}` : `${runs}, ${time}`;
  at("exact").textContent = "A study";
  at("exact").title = "Each value, and each combination of values, is a run.";
  facts([
    ["Time", time, answer.seconds !== null && answer.untimed_stages ? `without ${answer.untimed_stages} pieces of work whose like has not run yet` : ""],
    ["Files altogether", bytes(answer.size_bytes), ""],
    ["Pieces of work", whole.format(answer.stages), answer.stages_done ? `${whole.format(answer.stages_done)} done already` : ""],
    ...(answer.memory_bytes === null ? [] : [["Memory, at most", bytes(answer.memory_bytes), ""]]),
  ]);
  at("steps").hidden = true;
  at("runs").hidden = false;
  at("runs").tBodies[0].replaceChildren(
    ...answer.runs.map(({ title, size_bytes }) => {
      const row = document.createElement("tr");
      row.append(element("td", title), element("td", bytes(size_bytes), "num"));
      return row;
    }),
  );
  at("warnings").replaceChildren(...answer.left_out.map(({ title, message }) => element("li", `Left out: ${title}. ${message}`)));
  at("unreached").hidden = true;
  document.querySelector("#start span").textContent = `Start study of ${runs}`;
}

export function showPrediction(answer) {
  document.querySelector("#start span").textContent = START;
  document.getElementById("prediction").classList.remove("of-study");
  at("runs").hidden = true;
  if (refused(answer)) return;
  const { before, after, exact, steps, warnings, unreached } = answer.prediction;
  at("after").textContent = bytes(after.size_bytes);
  at("after").title = `${whole.format(after.size_bytes)} bytes`;
  at("before").textContent = `from ${bytes(before.size_bytes)}`;
  at("bar").setAttribute("width", Math.min(100, (after.size_bytes / before.size_bytes) * 100).toFixed(2));
  const times = before.size_bytes / after.size_bytes;
  at("times").textContent = times > 1 ? `${times.toFixed(2)} × smaller` : "not smaller";
  at("mini").textContent = `${bytes(after.size_bytes)}, ${at("times").textContent}`;
  at("exact").textContent = exact ? "to the byte" : "approximate";
  at("exact").title = exact ? "The file will have exactly this size." : "The values of the weights decide too.";
  facts([
    ["Nonzero parameters", `${whole.format(after.params_nonzero)}`, `of ${whole.format(before.params_total)}`],
    ["Stored values", whole.format(after.params_stored), ""],
    ["Sparsity", percent(after.sparsity), ""],
    ["Bits per weight", after.bits_per_weight.toFixed(2), `was ${before.bits_per_weight.toFixed(2)}`],
    ...needed(answer.needs),
  ]);
  stepRows(steps);
  at("warnings").replaceChildren(...warnings.map((text) => element("li", text)));
  leftRows(unreached);
}

// Of memory and disk, at most.
function needed(needs) {
  if (!needs) return [];
  const most = needs.stages.find(({ memory_bytes }) => memory_bytes === needs.memory_bytes);
  return [
    ["Memory, at most", needs.memory_bytes === null ? "not known" : bytes(needs.memory_bytes), needs.memory_bytes === null ? "" : most.title],
    ["Disk, at most", bytes(needs.disk_bytes), "until it is done"],
  ];
}

function facts(rows) {
  at("facts").replaceChildren(
    ...rows.map(([label, value, note]) => {
      const fact = element("div", "", "fact");
      const shown = element("dd", value, "whole");
      if (note) shown.append(" ", element("small", note, "muted"));
      fact.append(element("dt", label), shown);
      return fact;
    }),
  );
}

function stepRows(steps) {
  at("steps").hidden = steps.length === 0;
  at("steps").tBodies[0].replaceChildren(
    ...steps.map((step, index) => {
      const row = document.createElement("tr");
      const done = step.matched.length - step.skipped.length;
      const layers = element("td", whole.format(done), "num");
      if (step.skipped.length) {
        layers.append(" ", element("small", `${step.skipped.length} skipped`, "text-warn"));
        layers.title = step.skipped.map(({ layer, reason }) => `${layer}: ${reason}`).slice(0, 12).join("\n");
      }
      row.append(element("td", `${index + 1}. ${step.title}`), layers, element("td", bytes(step.size_bytes), "num"));
      return row;
    }),
  );
}

function leftRows(left) {
  at("unreached").hidden = left.length === 0;
  const share = left.reduce((sum, row) => sum + row.share, 0);
  at("unreached").querySelector("summary").textContent = `${percent(share)} of the file is reached by no step`;
  at("unreached").querySelector("tbody").replaceChildren(
    ...left.map(({ what, share, why }) => {
      const row = document.createElement("tr");
      const named = element("td", what);
      named.append(element("small", why, "muted d-block"));
      row.append(named, element("td", percent(share), "num"));
      return row;
    }),
  );
}

function element(name, text, classes = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (classes) made.className = classes;
  return made;
}
