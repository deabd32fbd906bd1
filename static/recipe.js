// The recipe builder: cards that are added, ordered and filled in, and the same as text. What was changed last, cards or
// text, is the recipe (`current`); the other follows it.
import { showCall } from "./calls.js";
import { showPlan, showPrediction } from "./predict.js";
import { draftOf, keepDraft } from "./recipe-draft.js";
import { addOverride, fill, isVaried, readCard, rowsOf, showMatches, showWhen, vary } from "./recipe-card.js";
import { yamlTab } from "./recipe-yaml.js";

const form = document.getElementById("builder");
const list = document.getElementById("steps");
const field = document.getElementById("recipe-json");
const initial = JSON.parse(document.getElementById("form-state").textContent);
const { error, run_id, steps_before: first } = initial; // where it goes on from a run, which has so many steps
const cards = () => [...list.children];
const address = (name) => form.getAttribute(`data-${name}`); // `form.dataset` is the field of that name
const start = document.getElementById("start");
let made = 0;
let ready = false;
let typed = false; // the text was changed last
let before = null; // the recipe that Undo brings back: {typed, recipe, sentence}

export function read() {
  return { version: 2, steps: cards().map(readCard) };
}

function add(step, before = null, matched = null) {
  made += 1;
  const html = document.getElementById(`card-${[step.technique].flat()[0]}`).innerHTML.replaceAll("__i__", `step${made}`);
  const holder = document.createElement("template");
  holder.innerHTML = html.trim();
  const card = holder.content.firstElementChild;
  list.insertBefore(card, before);
  fill(card, step, matched);
  return card;
}

function replace(recipe, matches = []) {
  list.replaceChildren();
  for (const [index, step] of (recipe.steps ?? []).entries()) add(step, null, matches[index]);
  numbered();
}

// What cards cannot show: a technique that is not here, overrides whose order JavaScript has lost (see `pairs`), and
// overrides of which a study tries several values.
const onlyText = ({ technique, overrides = [] }) =>
  [technique].flat().some((name) => !document.getElementById(`card-${name}`)) ||
  !Array.isArray(overrides) ||
  overrides.some(([, settings]) => Object.values(settings ?? {}).some(isVaried));
const current = () => (typed ? yaml.value : JSON.stringify(read()));

function numbered() {
  for (const [index, card] of cards().entries()) {
    card.querySelector("[data-number]").textContent = first + index + 1;
    card.querySelector('[data-move="-1"]').disabled = index === 0;
    card.querySelector('[data-move="1"]').disabled = index === cards().length - 1;
    showWhen(card);
  }
  document.getElementById("steps-empty").hidden = cards().length > 0;
}

// The cards were changed by hand, so that they are the recipe.
function changed() {
  if (typed) {
    offerUndo("The steps took the place of the text.");
    typed = false;
    fault(null);
  }
  numbered();
  keep();
  look();
}

let timer = 0;
function textChanged() {
  typed = true;
  keep();
  clearTimeout(timer);
  timer = setTimeout(look, 250); // half a word is not worth a complaint
}

function keep() {
  if (ready) document.getElementById("form-error")?.remove(); // it was about what has just been changed
  field.value = current();
  keepDraft(form, { typed, recipe: field.value, before });
}

function offerUndo(sentence) {
  before = { typed, recipe: current(), sentence };
  showUndo();
}

function showUndo() {
  const place = document.getElementById("undo");
  place.hidden = !before;
  place.firstElementChild.textContent = before?.sentence ?? "";
}

function bring({ typed: asText, recipe }) {
  let steps = null;
  try {
    steps = JSON.parse(recipe);
  } catch {
    // text that is not JSON; or what came back from the server was neither, and the error above the form says so
  }
  typed = asText || !Array.isArray(steps?.steps) || steps.steps.some(onlyText);
  if (typed) yaml.show(recipe);
  else {
    replace(steps);
    fault(null);
  }
  yaml.select(typed);
}

// What is wrong with the text: at its line, and nothing can be started while it is.
function fault(error) {
  yaml.fault(error?.message ?? "");
  start.disabled = Boolean(error);
  document.getElementById("text-fault").hidden = !error;
}

const DATA = ["dataset", "training_dataset"]; // some steps need it, and the prediction says so

// Asks the server what the recipe gives, and what each step's patterns match; one question at a time, and another one
// as soon as it is answered where something was changed meanwhile: the prediction keeps up with a slider as it moves.
let asking = false;
let again = false;
async function look() {
  again = true;
  if (asking) return;
  asking = true;
  while (again) {
    again = false;
    await ask();
  }
  asking = false;
}

async function ask() {
  const asText = typed;
  const on = run_id ? { run_id } : { checkpoint_id: form.elements.checkpoint.value };
  const recipe = asText ? yaml.value : read();
  if (!asText && !recipe.steps.length) {
    yaml.show("version: 2\nsteps: []\n");
    return showPrediction({ error: { message: "The recipe has no steps yet." } });
  }
  document.getElementById("prediction").classList.add("stale");
  try {
    const [dataset_id, training_dataset_id] = DATA.map((name) => form.elements[name].value || null);
    const teacher_checkpoint_id = form.elements.teacher_checkpoint.value || null;
    const exports = [...form.querySelectorAll("[data-export]:checked")].map((box) => box.value);
    const data = { dataset_id, training_dataset_id, teacher_checkpoint_id };
    if (!asText && recipe.steps.some(({ technique, settings }) => Array.isArray(technique) || Object.values(settings).some(isVaried))) {
      return await askPlan(asText, { ...on, recipe, ...data }, exports);
    }
    showCall("/runs", { ...on, recipe, ...data, exports, ...others(), name: form.elements.name.value });
    const answer = await post(address("predict"), { ...on, recipe, exports, ...data });
    if (answer.error?.code === "recipe_varies") return await askPlan(asText, { ...on, recipe, ...data }, exports);
    if (answer.error) answer.error.message = plain(answer.error.message);
    // A recipe that the prediction refuses: what its patterns match, and its text, are still worth seeing.
    const { matches, recipe_yaml } = answer.error && !asText ? await post(address("match"), { ...on, recipe }) : answer;
    if (asText !== typed || (asText && again)) return; // another text is there meanwhile, and is asked about next
    showPrediction(answer);
    if (asText) {
      fault(answer.error);
      if (answer.recipe) replace(answer.recipe, answer.matches);
    }
    mark(asText ? null : answer.error);
    if (!asText) yaml.show(recipe_yaml ?? JSON.stringify(recipe, null, 2));
    for (const [index, card] of cards().entries()) showMatches(card, matches?.[index]);
  } catch {
    showPrediction({ error: { message: "Pare does not answer; the estimate is out of date. Check that it is running." } });
  }
}

// A recipe with ranges: what its study will run.
async function askPlan(asText, sweep, exports) {
  showCall("/studies", { sweep: { ...sweep, ...others() }, exports, name: form.elements.name.value });
  const answer = await post(address("plan"), { sweep: { ...sweep, preprocessing: preprocessing() }, exports });
  if (answer.error) answer.error.message = plain(answer.error.message);
  if (asText !== typed || (asText && again)) return;
  showPlan(answer);
  if (asText) {
    fault(answer.error);
    if (answer.recipe && !answer.recipe.steps.some(onlyText)) replace(answer.recipe, answer.matches);
  }
  mark(asText ? null : answer.error);
  if (!asText) yaml.show(answer.recipe_yaml ?? JSON.stringify(sweep.recipe, null, 2));
  for (const [index, card] of cards().entries()) showMatches(card, answer.matches?.[index]);
}

// What the prediction does not depend on.
function others() {
  return { seed: Number(form.elements.seed.value) || null, preprocessing: preprocessing() };
}

function preprocessing() {
  const text = form.elements.preprocessing?.value;
  return text ? JSON.parse(text) : null;
}

async function post(address, body) {
  const response = await fetch(address, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json" },
    body: JSON.stringify(body),
  });
  return response.json();
}

// "`steps.0.settings.sparsity`: input should be …" without the path, which nobody sees on this page.
function plain(message) {
  const path = /^`steps\.(\d+)\.(?:settings\.|overrides\.(.+)\.)?([\w.]+)`(:?) (.*)$/s;
  const [, index, pattern, key, colon, rest] = path.exec(message) ?? [];
  if (!rest) return message;
  const where = `Step ${first + Number(index) + 1}${pattern ? `, ${pattern}` : ""}`;
  return colon ? `${where}, ${key}: ${rest}` : `${where}: ${key} ${rest}`;
}

// Puts an error where it belongs: "steps.1.settings.sparsity" is the field of that name in the second card.
function mark(problem) {
  for (const place of list.querySelectorAll(".field-error")) place.hidden = true;
  for (const input of list.querySelectorAll(".is-invalid")) {
    input.classList.remove("is-invalid");
    input.removeAttribute("aria-invalid");
  }
  for (const card of cards()) card.classList.remove("step-wrong");
  const [, index, part, path = ""] = /^steps\.(\d+)(?:\.(\w+))?(?:\.(.+))?/s.exec(problem?.field ?? "") ?? [];
  const card = cards()[index];
  if (!card) return;
  card.classList.add("step-wrong");
  const { place, input } = whereIn(card, part, path);
  const shown = place ?? card.querySelector("[data-step-error]");
  shown.textContent = problem.message;
  shown.hidden = false;
  for (let folded = shown.closest("details"); folded; folded = folded.parentElement.closest("details")) folded.open = true;
  input?.classList.add("is-invalid");
  input?.setAttribute("aria-invalid", "true");
}

// Where an error is shown, and the field that it is about.
function whereIn(card, part, path) {
  const find = (selector) => card.querySelector(selector);
  if (part === "settings") {
    const name = CSS.escape(path);
    return { place: find(`[data-error="${name}"]`), input: find(`[data-setting="${name}"]`) };
  }
  if (part === "layers") {
    return { place: find('[data-error="layers"]'), input: find(`[data-${path.startsWith("exclude") ? "exclude" : "include"}]`) };
  }
  if (part !== "overrides") return {};
  const patterns = rowsOf(card).map((row) => row.querySelector("[data-pattern]"));
  const own = patterns.filter(({ value }) => `${path}.`.startsWith(`${value.trim()}.`)); // a pattern may hold dots itself
  const pattern = own.sort((one, other) => other.value.length - one.value.length)[0];
  if (!pattern) return { place: find('[data-error="overrides"]') };
  const row = pattern.closest("[data-row]");
  const name = CSS.escape(path.slice(pattern.value.trim().length + 1));
  return { place: row.querySelector("[data-row-error]"), input: row.querySelector(`[data-instead="${name}"]`) ?? pattern };
}

function move(card, by) {
  const other = by < 0 ? card.previousElementSibling : card.nextElementSibling;
  if (!other) return;
  list.insertBefore(card, by < 0 ? other : other.nextElementSibling);
  const place = first + cards().indexOf(card) + 1;
  document.getElementById("moved").textContent = `${title(card)} is now step ${place} of ${first + cards().length}.`;
}

const title = (card) => card.querySelector("h3").textContent;

form.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const card = button.closest("[data-step]");
  if (button.dataset.add) {
    const added = add({ technique: button.dataset.add, settings: {} });
    added.querySelector("input, select")?.focus();
  } else if (button.dataset.preset) {
    offerUndo(`${button.textContent.trim()} took the place of your recipe.`);
    typed = false;
    fault(null);
    replace(JSON.parse(button.dataset.preset));
  } else if ("undo" in button.dataset) {
    const wanted = before;
    offerUndo("That was undone.");
    bring(wanted);
    keep();
    return look();
  } else if ("showText" in button.dataset) return yaml.select(true, true);
  else if ("useSteps" in button.dataset) return changed();
  else if (button.dataset.move) {
    move(card, Number(button.dataset.move));
    changed();
    (button.disabled ? card.querySelector("[data-move]:not(:disabled)") : button)?.focus();
  } else if ("duplicate" in button.dataset) add(readCard(card), card.nextElementSibling)?.querySelector("button")?.focus();
  else if ("addOverride" in button.dataset) addOverride(card).querySelector("[data-pattern]").select();
  else if (button.dataset.rowMove) {
    const row = button.closest("[data-row]");
    if (button.dataset.rowMove < 0) row.previousElementSibling.before(row);
    else row.nextElementSibling.after(row);
    changed();
    (button.disabled ? row.querySelector("[data-row-move]:not(:disabled)") : button)?.focus();
  } else if ("rowRemove" in button.dataset) {
    const row = button.closest("[data-row]");
    offerUndo(`The override of ${row.querySelector("[data-pattern]").value} was removed.`);
    const next = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    (next?.querySelector("[data-row-remove]") ?? card.querySelector("[data-add-override]")).focus();
  } else if ("vary" in button.dataset) {
    const place = button.closest(".setting");
    const on = button.getAttribute("aria-pressed") !== "true";
    vary(place, on);
    (on ? place.querySelector("[data-values]") : place.querySelector("[data-setting]")).focus();
    if (on) place.querySelector("[data-values]").select();
  } else if ("remove" in button.dataset) {
    const next = card.nextElementSibling ?? card.previousElementSibling;
    offerUndo(`${title(card)} was removed.`);
    card.remove();
    (next?.querySelector("[data-remove]") ?? document.querySelector("[data-add]")).focus();
  } else return;
  changed();
});

list.addEventListener("input", (event) => {
  const { target } = event;
  const setting = target.closest(".setting");
  if ("values" in target.dataset) return changed();
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

for (const name of [...DATA, "teacher_checkpoint"]) form.elements[name].addEventListener("change", look);
for (const box of form.querySelectorAll("[data-export]")) box.addEventListener("change", look);
form.addEventListener("input", keep);
form.elements.checkpoint.addEventListener("change", () => {
  look();
  fit();
});

// Which datasets and formats fit the chosen checkpoint.
async function fit() {
  const answer = await fetch(`${address("fit")}?checkpoint=${encodeURIComponent(form.elements.checkpoint.value)}`);
  const { datasets, exports } = await answer.json();
  for (const box of form.querySelectorAll("[data-export]")) {
    const reason = exports[box.value];
    const choice = box.closest("label");
    box.disabled = Boolean(reason);
    if (reason) box.checked = false;
    choice.querySelector("[data-summary]").hidden = Boolean(reason);
    choice.querySelector("[data-reason]").textContent = reason ?? "";
    choice.querySelector("[data-reason]").hidden = !reason;
    document.getElementById(reason ? "exports-unfit" : "exports-fit").append(choice);
  }
  const folded = document.getElementById("exports-unfit");
  folded.parentElement.hidden = !folded.childElementCount;
  folded.parentElement.querySelector("[data-count]").textContent = folded.childElementCount;
  for (const option of form.elements.dataset.options) {
    const reason = datasets[option.value];
    option.disabled = Boolean(reason);
    option.title = reason ?? "";
    option.textContent = option.dataset.name + (reason ? " (does not fit)" : "");
  }
  if (form.elements.dataset.selectedOptions[0]?.disabled) {
    form.elements.dataset.value = Object.keys(datasets).find((id) => datasets[id] === null) ?? "";
    form.elements.dataset.dispatchEvent(new Event("change", { bubbles: true })); // the preprocessing follows it too
  }
  keep();
}

form.addEventListener("submit", keep);

const yaml = yamlTab(textChanged);
const draft = error ? null : draftOf(form);
before = draft?.before ?? null;
showUndo();
bring(draft ?? { typed: false, recipe: field.value });
if (draft) fit();
field.value = current();
look();
ready = true;
if (error) {
  if (typed) fault(error);
  else mark(error);
  document.getElementById("form-error")?.focus();
}
