// The recipe builder: cards that are added, ordered and filled in; everything else follows from `read()`.
import { forecast } from "./forecast.js";
import { fill, readCard, showMatches, showWhen } from "./recipe-card.js";
import { yamlTab } from "./recipe-yaml.js";

const form = document.getElementById("builder");
const list = document.getElementById("steps");
const field = document.getElementById("recipe-json");
const initial = JSON.parse(document.getElementById("form-state").textContent);
const { error } = initial;
const cards = () => [...list.children];
const address = (name) => form.getAttribute(`data-${name}`); // `form.dataset` is the field of that name
let made = 0;
let ready = false;

export function read() {
  return { version: 1, steps: cards().map(readCard) };
}

function add(step, before = null) {
  made += 1;
  const html = document.getElementById(`card-${step.technique}`).innerHTML.replaceAll("__i__", `step${made}`);
  const holder = document.createElement("template");
  holder.innerHTML = html.trim();
  const card = holder.content.firstElementChild;
  list.insertBefore(card, before);
  fill(card, step);
  return card;
}

function replace(recipe) {
  const steps = recipe.steps ?? [];
  const unknown = steps.find((step) => !document.getElementById(`card-${step.technique}`));
  if (unknown) return `There is no technique ${unknown.technique}. Nothing was changed.`;
  list.replaceChildren();
  for (const step of steps) add(step);
  changed();
  return "";
}

let timer = 0;
function changed() {
  for (const [index, card] of cards().entries()) {
    card.querySelector("[data-number]").textContent = index + 1;
    card.querySelector('[data-move="-1"]').disabled = index === 0;
    card.querySelector('[data-move="1"]').disabled = index === cards().length - 1;
    showWhen(card);
  }
  document.getElementById("steps-empty").hidden = cards().length > 0;
  if (ready) document.getElementById("form-error")?.remove(); // it was about what has just been changed
  field.value = JSON.stringify(read());
  clearTimeout(timer);
  timer = setTimeout(look, 150);
}

const DATA = ["dataset", "training_dataset"]; // some steps need it, and the forecast says so

// Asks the server what the recipe gives, and what each step's patterns match. Only the newest answer counts.
let asked = new AbortController();
async function look() {
  asked.abort();
  asked = new AbortController();
  const { signal } = asked;
  const checkpoint_id = form.elements.checkpoint.value;
  const recipe = read();
  if (!recipe.steps.length) return forecast({ error: { message: "The recipe has no steps yet." } });
  document.getElementById("forecast").classList.add("stale");
  try {
    const [dataset_id, training_dataset_id] = DATA.map((name) => form.elements[name].value || null);
    const answer = await post(address("predict"), { checkpoint_id, recipe, dataset_id, training_dataset_id }, signal);
    if (answer.error) answer.error.message = plain(answer.error.message);
    forecast(answer);
    mark(answer.error);
    if (answer.recipe_yaml) yaml.show(answer.recipe_yaml);
    // A pattern that matches nothing is refused by the forecast; what the others match is still worth seeing.
    const { matches } = answer.error ? await post(address("match"), { checkpoint_id, recipe }, signal) : answer;
    for (const [index, card] of cards().entries()) showMatches(card, matches?.[index]);
  } catch (problem) {
    if (problem.name === "AbortError") return;
    forecast({ error: { message: "Pare does not answer; the forecast is out of date. Check that it is running." } });
  }
}

async function post(address, body, signal) {
  const response = await fetch(address, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  return response.json();
}

// "`steps.0.settings.sparsity`: input should be …" without the path, which nobody sees on this page.
function plain(message) {
  const [, index, key, rest] = /^`steps\.(\d+)\.(?:settings\.)?([\w.]+)`:? (.*)$/s.exec(message) ?? [];
  return rest ? `Step ${Number(index) + 1}, ${key}: ${rest}` : message;
}

// Puts an error where it belongs: "steps.1.settings.sparsity" is the field of that name in the second card.
function mark(problem) {
  for (const place of list.querySelectorAll(".field-error")) place.hidden = true;
  for (const input of list.querySelectorAll(".is-invalid")) {
    input.classList.remove("is-invalid");
    input.removeAttribute("aria-invalid");
  }
  for (const card of cards()) card.classList.remove("step-wrong");
  const [, index, part, key] = /^steps\.(\d+)(?:\.(\w+))?(?:\.(\w+))?/.exec(problem?.field ?? "") ?? [];
  const card = cards()[index];
  if (!card) return;
  card.classList.add("step-wrong");
  const place =
    part === "settings"
      ? card.querySelector(`[data-error="${CSS.escape(key ?? "")}"]`)
      : part === "layers"
        ? card.querySelector('[data-error="layers"]')
        : null;
  const shown = place ?? card.querySelector("[data-step-error]");
  shown.textContent = problem.message;
  shown.hidden = false;
  if (part === "layers") card.querySelector("[data-layers]").open = true;
  const input = part === "settings" ? card.querySelector(`[data-setting="${CSS.escape(key ?? "")}"]`) : null;
  const wrong = input ?? (part === "layers" ? card.querySelector(`[data-${key === "exclude" ? "exclude" : "include"}]`) : null);
  wrong?.classList.add("is-invalid");
  wrong?.setAttribute("aria-invalid", "true");
}

function move(card, by) {
  const other = by < 0 ? card.previousElementSibling : card.nextElementSibling;
  if (!other) return;
  list.insertBefore(card, by < 0 ? other : other.nextElementSibling);
  const place = cards().indexOf(card) + 1;
  document.getElementById("moved").textContent = `${title(card)} is now step ${place} of ${cards().length}.`;
}

const title = (card) => card.querySelector("h3").textContent;

form.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const card = button.closest("[data-step]");
  if (button.dataset.add) {
    const added = add({ technique: button.dataset.add, settings: {} });
    added.querySelector("input, select")?.focus();
  } else if (button.dataset.preset) replace(JSON.parse(button.dataset.preset));
  else if (button.dataset.move) {
    move(card, Number(button.dataset.move));
    changed();
    (button.disabled ? card.querySelector("[data-move]:not(:disabled)") : button)?.focus();
  } else if ("duplicate" in button.dataset) add(readCard(card), card.nextElementSibling)?.querySelector("button")?.focus();
  else if ("remove" in button.dataset) {
    const next = card.nextElementSibling ?? card.previousElementSibling;
    card.remove();
    (next?.querySelector("[data-remove]") ?? document.querySelector("[data-add]")).focus();
  } else return;
  changed();
});

list.addEventListener("input", (event) => {
  const { target } = event;
  const setting = target.closest(".setting");
  if ("slider" in target.dataset) setting.querySelector("[data-setting]").value = target.value;
  else {
    const slider = setting?.querySelector("[data-slider]");
    if (slider && target.value !== "") slider.value = target.value;
  }
  changed();
});

// A card can be dragged by its grip only, so that text in it can still be selected.
let dragged = null;
list.addEventListener("pointerdown", (event) => {
  const card = event.target.closest("[data-grip]")?.closest("[data-step]");
  if (!card) return;
  dragged = card;
  card.classList.add("dragged");
  list.setPointerCapture(event.pointerId);
  event.preventDefault();
});
list.addEventListener("pointermove", (event) => {
  if (!dragged) return;
  const after = cards().find((card) => {
    const box = card.getBoundingClientRect();
    return card !== dragged && event.clientY < box.top + box.height / 2;
  });
  if (after !== dragged.nextElementSibling && after !== dragged) list.insertBefore(dragged, after ?? null);
});
for (const end of ["pointerup", "pointercancel"]) {
  list.addEventListener(end, () => {
    if (!dragged) return;
    dragged.classList.remove("dragged");
    dragged = null;
    changed();
  });
}

for (const name of DATA) form.elements[name].addEventListener("change", changed);

form.elements.checkpoint.addEventListener("change", async (event) => {
  changed();
  const answer = await fetch(`${address("fit")}?checkpoint=${encodeURIComponent(event.target.value)}`);
  const { datasets, exports } = await answer.json();
  for (const box of form.querySelectorAll("[data-export]")) {
    const reason = exports[box.value];
    box.disabled = Boolean(reason);
    if (reason) box.checked = false;
    const place = box.closest("label").querySelector("[data-reason]");
    place.textContent = reason ?? "";
    place.hidden = !reason;
  }
  for (const option of form.elements.dataset.options) {
    const reason = datasets[option.value];
    option.disabled = Boolean(reason);
    option.title = reason ?? "";
    option.textContent = option.dataset.name + (reason ? " (does not fit)" : "");
  }
  if (form.elements.dataset.selectedOptions[0]?.disabled) {
    form.elements.dataset.value = Object.keys(datasets).find((id) => datasets[id] === null) ?? "";
    changed();
  }
});

form.addEventListener("submit", () => (field.value = JSON.stringify(read())));

const yaml = yamlTab(post, address("parse"), replace);
let given = {};
try {
  given = JSON.parse(field.value);
} catch {
  // what came back from the server was not JSON; the error above the form says so
}
replace(given);
ready = true;
if (error) {
  mark(error);
  document.getElementById("form-error")?.focus();
}
