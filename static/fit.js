// A budget that follows its slider: each change is solved by Pare, and the answer is shown all over the page.

import { showCall } from "./calls.js";
import { layerMap } from "./fit-map.js";
import { bytes, significant } from "./predict.js";

const at = (id) => document.getElementById(id);
const form = at("fit");
const known = JSON.parse(at("fit-data").textContent);
const slider = at("slider");
const whole = new Intl.NumberFormat("en-US");
const STEPS = Number(slider.max);
const RANGE = Math.log(known.original_bytes / known.least_bytes) || 1; // there may be nothing to choose

// Equal steps of the slider are equal factors of the size.
const sizeAt = (step) => known.least_bytes * Math.exp((RANGE * step) / STEPS);
const stepOf = (size) => Math.round((STEPS * Math.log(size / known.least_bytes)) / RANGE);
const range = ({ low, high }) => `${significant(low)} to ${significant(high)}`;

// As the field shows it: four digits, rounded up, for the file may have no more than is typed.
function rounded(size) {
  const digit = 10 ** (Math.floor(Math.log10(size / known.unit_bytes)) - 3);
  return Number((Math.ceil(size / known.unit_bytes / digit - 1e-6) * digit).toPrecision(4));
}

let { locks, answer } = known;
let bySize = form.elements.tolerance.value.trim() === "";
let asked = "";
let underWay = false;
let frame = 0;

const number = (field) => Number(field.value.trim().replace(",", "."));
const ticked = (name) => [...form.querySelectorAll(`[name=${name}]:checked`)].map((box) => box.value);

function goal() {
  if (bySize) return { bytes: Math.round(number(form.elements.size) * known.unit_bytes) };
  return { [form.elements.tolerance_in.value]: number(form.elements.tolerance) };
}

function ask() {
  frame ||= requestAnimationFrame(send);
}

// One question at a time: what changes meanwhile is asked as soon as the answer is there.
async function send() {
  frame = 0;
  const [wanted] = Object.values(goal());
  if (!Number.isFinite(wanted) || wanted < 0 || (bySize && !wanted)) return fault(bySize ? "The size is to be a number above 0." : "The loss is to be a number, and not below 0.");
  const body = { profile_id: known.profile, goal: goal(), families: ticked("families"), exports: ticked("exports"), locks };
  const question = JSON.stringify(body);
  if (underWay || question === asked) return;
  underWay = true;
  asked = question;
  showCall("/budgets", body);
  try {
    const reply = await fetch(form.dataset.budgets, { method: "POST", headers: { "Content-Type": "application/json" }, body: question });
    const found = await reply.json();
    if (found.error) fault(found.error.message);
    else {
      fault("");
      show(found);
    }
  } catch {
    asked = "";
    fault("Pare does not answer. Change something to try again.");
  } finally {
    underWay = false;
  }
  keep();
  if (asked) ask();
}

function fault(message) {
  at("budget-error").hidden = !message;
  at("budget-error").querySelector("p").textContent = message;
  at("forecast").classList.toggle("stale", Boolean(message));
  at("run").disabled = Boolean(message);
  if (!message) return;
  at("mini").textContent = "This budget cannot be met.";
  at("options-forecast").textContent = message;
}

function show(found) {
  const before = answer;
  answer = found;
  const { size_bytes: size, expected } = answer;
  at("forecast-size").textContent = bytes(size);
  at("forecast-size").title = `${whole.format(size)} bytes`;
  at("forecast-file").textContent = known.files[found.format ?? "own"];
  at("forecast-times").textContent = `${(known.original_bytes / size).toFixed(2)} × smaller`;
  at("forecast-bar").setAttribute("width", Math.min(100, (100 * size) / known.original_bytes).toFixed(2));
  at("forecast-loss").textContent = significant(expected.loss.value);
  at("forecast-interval").textContent = range(expected.loss);
  at("forecast-points-row").hidden = !expected.points;
  if (expected.points) {
    at("forecast-points").textContent = expected.points.value.toFixed(2);
    at("forecast-points-interval").textContent = `${expected.points.low.toFixed(2)} to ${expected.points.high.toFixed(2)}`;
  }
  at("forecast-bits").textContent = ((8 * size) / known.params).toFixed(2);
  at("forecast-cuts-row").hidden = !answer.cuts.length;
  at("forecast-cuts").replaceChildren(...answer.cuts.map((cut) => Object.assign(document.createElement("span"), { textContent: `${cut.unit}: ${cut.label}` })));
  const raced = answer.uniform_bytes !== null && size >= answer.uniform_bytes;
  at("run-help").querySelector("[data-raced]").hidden = !raced;
  at("run-help").querySelector("[data-alone]").hidden = raced;
  at("mini").textContent = `${bytes(size)}, ${significant(expected.loss.value)} ${known.loss_unit}`;
  if (!bySize && document.activeElement !== form.elements.size) form.elements.size.value = rounded(size);
  if (!bySize || document.activeElement !== slider) slider.value = stepOf(bySize ? number(form.elements.size) * known.unit_bytes : size);
  slider.setAttribute("aria-valuetext", `${form.elements.size.value} ${known.unit}`);
  showLocks();
  showFront(JSON.stringify(before.front) !== JSON.stringify(answer.front));
  map.show(answer, locks);
}

// What was decided is shown at once, for the budget may be one that cannot be met.
function redrawn() {
  showLocks();
  map.show(answer, locks);
  ask();
}

function showLocks() {
  const count = Object.keys(locks).length;
  at("locked").hidden = count === 0;
  at("locked-count").textContent = `${count} ${count === 1 ? "layer is" : "layers are"} decided by you.`;
  form.elements.locks.value = JSON.stringify(locks);
}

function showFront(changed) {
  const place = at("figure-front");
  const figure = JSON.parse(place.textContent);
  const trace = (name) => figure.data.find(({ meta }) => meta === name);
  const { bytes: unit, floor } = figure.layout.meta;
  const { size_bytes: size, expected } = answer;
  const chosen = trace("chosen");
  if (!chosen) return;
  const { value, low, high } = expected.loss;
  Object.assign(chosen, { x: [size / unit], y: [value] });
  Object.assign(chosen.error_y, { array: [high - value], arrayminus: [value - low] });
  if (changed) {
    const rows = answer.front.filter(({ loss }) => loss >= (floor ?? 0));
    const x = rows.map((row) => row.size_bytes / unit);
    Object.assign(trace("front"), { x, y: rows.map(({ loss }) => loss), customdata: rows.map((row) => [row.low, row.high]) });
    const under = rows.map((row) => Math.max(row.low, floor ?? 0));
    Object.assign(trace("band"), { x: [...x, ...x.toReversed()], y: [...rows.map((row) => row.high), ...under.toReversed()] });
    at("front-table").tBodies[0].replaceChildren(
      ...answer.front.map((row) => {
        const shown = document.createElement("tr");
        for (const text of [bytes(row.size_bytes), significant(row.loss), range(row)]) {
          const cell = shown.insertCell();
          cell.className = "num";
          cell.textContent = text;
        }
        return shown;
      }),
    );
  }
  place.textContent = JSON.stringify(figure);
  document.dispatchEvent(new Event("figureschange"));
}

function resize(size) {
  bySize = true;
  form.elements.tolerance.value = "";
  form.elements.size.value = rounded(size);
  ask();
}

// What was asked stays with the page's place in the history: a reload or Back finds it again.
function keep() {
  const { size, tolerance, tolerance_in: unit } = form.elements;
  const fields = { size: size.value, tolerance: tolerance.value, tolerance_in: unit.value };
  history.replaceState({ ...history.state, fit: { fields, families: ticked("families"), exports: ticked("exports"), locks } }, "");
}

function bring({ fields, families, exports, locks: kept }) {
  for (const [name, value] of Object.entries(fields)) form.elements[name].value = value;
  for (const box of form.querySelectorAll("[name=families]")) box.checked = families.includes(box.value);
  for (const box of form.querySelectorAll("[name=exports]")) box.checked = exports.includes(box.value);
  locks = kept;
  bySize = fields.tolerance === "";
}

const map = layerMap(known, (name, option) => {
  locks = Object.fromEntries(Object.entries({ ...locks, [name]: option }).filter(([, chosen]) => chosen !== null));
  redrawn();
});
form.querySelector("[data-without-script]").hidden = true;
slider.hidden = false;
slider.addEventListener("input", () => resize(sizeAt(Number(slider.value))));
form.elements.size.addEventListener("input", () => {
  bySize = true;
  form.elements.tolerance.value = "";
  ask();
});
form.elements.tolerance.addEventListener("input", () => {
  bySize = form.elements.tolerance.value.trim() === "";
  ask();
});
form.addEventListener("change", ({ target }) => {
  if (target.name === "exports") at("formats-chosen").textContent = ticked("exports").length ? `${ticked("exports").length} wanted` : "any";
  ask();
});
// Enter shows what is asked; it does not start the run.
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.matches("input")) event.preventDefault();
});
at("unlock-all").addEventListener("click", () => {
  locks = {};
  redrawn();
});
document.querySelector("[data-figure=figure-front]").on?.("plotly_click", ({ points: [point] }) => {
  if (point.data.meta === "front") resize(point.x * JSON.parse(at("figure-front").textContent).layout.meta.bytes);
});
if (history.state?.fit) {
  bring(history.state.fit);
  ask();
}
show(answer);
