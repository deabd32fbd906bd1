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

// Three digits of what may be tiny.
export const significant = (value) => (value !== 0 && value < 0.0001 ? value.toExponential(2).replace(/\.?0+e/, "e") : String(Number(value.toPrecision(3))));

const percent = (share) => `${(share * 100).toFixed(1)} %`;

export function showPrediction(answer) {
  const panel = document.getElementById("prediction");
  at("error").hidden = !answer.error;
  if (answer.error) {
    at("error").querySelector("p").textContent = answer.error.message;
    at("mini").textContent = "This recipe does not work yet.";
    panel.classList.add("stale");
    return;
  }
  panel.classList.remove("stale");
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
