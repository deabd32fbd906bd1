// Trying a model: the same input for the original and the compressed one, and what differs.
import { imageOf, isGiven, sampleOf } from "./tryout-image.js";

const form = document.querySelector("[data-try]");
const at = (name) => form.querySelector(`[data-${name}]`);
const element = (tag, text, className = "") => Object.assign(document.createElement(tag), { textContent: text, className });
const sides = form && JSON.parse(form.dataset.try); // {original?, result}: where each is asked
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

async function input() {
  const text = form.querySelector("#try-text");
  if (text) return { text: text.value, ...(form.querySelector("#try-other") && { other: form.querySelector("#try-other").value }) };
  const shape = JSON.parse(form.dataset.shape);
  if ("prepared" in form.dataset) return { image: await imageOf() };
  if (form.dataset.values && isGiven()) return { values: nested(JSON.parse(form.dataset.values), shape) };
  if (form.querySelector("#try-canvas")) return { values: sampleOf(shape, Number(form.querySelector("#try-black").value), Number(form.querySelector("#try-white").value)) };
  const numbers = form.querySelector("#try-row").value.split(/[\s,;]+/).filter(Boolean).map(Number);
  if (numbers.some(Number.isNaN)) throw new Error("Write numbers, with commas or spaces between.");
  return { values: nested(numbers, shape) };
}

function nested(flat, shape) {
  if (shape.length < 2) return flat;
  const size = flat.length / shape[0];
  return Array.from({ length: shape[0] }, (_, index) => nested(flat.slice(index * size, (index + 1) * size), shape.slice(1)));
}

async function ask(side, given) {
  for (let times = 0; times < 240; times++) {
    const { url, ...more } = sides[side];
    const answer = await fetch(url, {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json" },
      body: JSON.stringify({ ...more, ...given }),
    });
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error.message);
    if (found.state === "ready") return found;
    if (found.state === "failed") throw new Error(found.reason);
    if (found.state === "stopped") throw new Error("The deployment is stopped; start it, then try again.");
    at("status").textContent = "Starting the models…";
    await pause(500);
  }
  throw new Error("The models did not start; the server's log may say why.");
}

function written(found, other) {
  const shown = element("p", "", "try-text");
  const same = found.tokens.findIndex((token, place) => token !== other?.tokens[place]);
  found.tokens.forEach((token, place) => {
    const differs = other && same >= 0 && place >= same && token !== other.tokens[place];
    shown.append(differs ? element("mark", token) : token);
  });
  if (!found.tokens.length) shown.append("(nothing)");
  return shown;
}

const best = (found) => found.classes.reduce((a, b) => (b.probability > a.probability ? b : a)).name;

// Both sides list the same classes in the same order: the likeliest of the original's.
function classes(found, original) {
  const table = element("table", "", "try-classes");
  const order = original.classes.map((each, place) => [each.probability, place]).sort(([a], [b]) => b - a);
  const rows = order.slice(0, 10).map(([, place]) => found.classes[place]);
  const likeliest = found.classes.find(({ name }) => name === best(found));
  if (!rows.includes(likeliest)) rows.push(likeliest);
  for (const { name, probability } of rows) {
    const row = table.insertRow();
    row.className = name === best(found) ? "best" : "";
    row.append(Object.assign(element("th", name), { scope: "row" }));
    const meter = Object.assign(document.createElement("meter"), { value: probability, max: 1 });
    meter.setAttribute("aria-label", `Probability of ${name}`);
    row.insertCell().append(meter);
    row.insertCell().append(`${(probability * 100).toFixed(2)} %`);
  }
  return table;
}

function draw(side, found, other) {
  const place = form.querySelector(`[data-side=${side}]`);
  let shown;
  if (found.tokens) shown = written(found, other);
  else if (found.classes) shown = classes(found, side === "original" ? found : (other ?? found));
  else if (found.similarity !== null) shown = element("p", `Similarity ${found.similarity.toFixed(4)}`);
  else shown = element("p", found.values.slice(0, 50).map((value) => value.toPrecision(5)).join(", "), "try-text mono");
  place.querySelector("[data-answer]").replaceChildren(shown);
}

function difference(one, two) {
  if (one.tokens) {
    const length = Math.max(one.tokens.length, two.tokens.length);
    const first = Array.from({ length }, (_, place) => place).find((place) => one.tokens[place] !== two.tokens[place]);
    return first === undefined ? `All ${length} tokens are the same.` : `The first ${first} of ${length} tokens are the same.`;
  }
  if (one.similarity !== null) return `The similarities differ by ${Math.abs(one.similarity - two.similarity).toFixed(4)}.`;
  const pairs = one.classes
    ? one.classes.map((each, place) => [each.probability, two.classes[place].probability])
    : one.values.map((value, place) => [value, two.values[place]]);
  const largest = Math.max(...pairs.map(([a, b]) => Math.abs(a - b)));
  if (!one.classes) return `The largest difference is ${largest.toPrecision(3)}.`;
  const agree = best(one) === best(two) ? `Both say ${best(one)}` : `The original says ${best(one)}, the compressed one ${best(two)}`;
  return `${agree}; the largest difference between two probabilities is ${(largest * 100).toFixed(2)} points.`;
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button[type=submit]");
  button.disabled = true;
  at("difference").hidden = true;
  try {
    at("status").textContent = "Asking…";
    const given = await input();
    const original = sides.original && (await ask("original", given));
    at("answers").hidden = false;
    if (original) draw("original", original, null);
    form.querySelector("[data-side=result] [data-answer]").replaceChildren("…");
    const result = await ask("result", given);
    if (original) draw("original", original, result);
    draw("result", result, original);
    if (original) at("difference").textContent = difference(original, result);
    at("difference").hidden = !original;
    at("status").textContent = "";
  } catch (error) {
    at("status").textContent = error.message;
  } finally {
    button.disabled = false;
  }
});
