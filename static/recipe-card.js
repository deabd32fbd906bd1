// One card of the recipe builder: its fields to a step and back, and what its patterns match.

const settingsOf = (card) => [...card.querySelectorAll("[data-setting]")];
export const rowsOf = (card) => [...card.querySelectorAll("[data-row]")];
const patternOf = (row) => row.querySelector("[data-pattern]").value.trim();
const insteadOf = (row) => [...row.querySelectorAll("[data-instead]")].filter((input) => input.value !== "");
const MOST_NAMES = 500; // that are offered while a pattern is typed
let made = 0;

export function readCard(card) {
  const settings = {};
  for (const input of settingsOf(card)) {
    const place = input.closest(".setting");
    if (!place.hidden) settings[input.dataset.setting] = varies(place) ? valuesOf(place.querySelector("[data-values]")) : valueOf(input);
  }
  const others = othersOf(card).map(({ value }) => value);
  const step = { technique: others.length ? [card.dataset.step, ...others] : card.dataset.step, settings };
  const include = patterns(card.querySelector("[data-include]").value);
  const exclude = patterns(card.querySelector("[data-exclude]").value);
  if (exclude.length || include.join() !== "*") step.layers = { include: include.length ? include : ["*"], exclude };
  if (rowsOf(card).length) step.overrides = rowsOf(card).map(readRow); // pairs: their order counts
  return step;
}

function readRow(row) {
  const given = insteadOf(row).filter((input) => !input.closest(".setting").hidden);
  return [patternOf(row), Object.fromEntries(given.map((input) => [input.dataset.instead, valueOf(input)]))];
}

// What cannot be read as a number stays text: the server's sentence about it is better than ours.
function valueOf(input) {
  const { kind } = input.dataset;
  if (kind === "bool") return input.type === "checkbox" ? input.checked : input.value === "true";
  return typed(input.value, kind);
}

function typed(text, kind) {
  if (kind !== "int" && kind !== "float") return text;
  return text === "" || Number.isNaN(Number(text)) ? text : Number(text);
}

// A setting of which a study tries several values: a list, or a range, which stays text.
const varies = (place) => place.querySelector("[data-vary]")?.getAttribute("aria-pressed") === "true";
const isRange = (value) => typeof value === "string" && /\d\s*\.\./.test(value);
export const isVaried = (value) => Array.isArray(value) || isRange(value);
const ON = { on: true, true: true, off: false, false: false };
const othersOf = (card) => [...card.querySelectorAll("[data-other]:checked")];

function valuesOf(input) {
  const { kind } = input.dataset;
  const parts = input.value.split(",").map((part) => part.trim()).filter(Boolean);
  if (parts.length === 1 && isRange(parts[0])) return parts[0];
  return parts.map((part) => (kind === "bool" ? (ON[part] ?? part) : isRange(part) ? part : typed(part, kind)));
}

export function vary(place, on, text = null) {
  const input = place.querySelector("[data-values]");
  place.querySelector("[data-vary]").setAttribute("aria-pressed", String(on));
  place.querySelector("[data-values-of]").hidden = !on;
  place.classList.toggle("varied", on);
  const own = place.querySelector("[data-setting]");
  if (on) input.value = text ?? (input.value || input.dataset.all || own.value);
}

const patterns = (text) => text.split(/[\s,]+/).filter(Boolean);

// Of a row of overrides, which begins as the layer that is usually the exception: the last one that has none yet.
export function addOverride(card, pattern = null, settings = {}) {
  made += 1;
  const holder = document.createElement("template");
  holder.innerHTML = card.querySelector("[data-row-template]").innerHTML.replaceAll("__row__", `row${made}`).trim();
  const row = holder.content.firstElementChild;
  const taken = rowsOf(card).map(patternOf);
  const known = [...card.querySelectorAll("[data-names] option")].findLast(({ value }) => !taken.includes(value))?.value;
  row.querySelector("[data-pattern]").value = pattern ?? known ?? "*";
  for (const [name, value] of Object.entries(settings)) row.querySelector(`[data-instead="${CSS.escape(name)}"]`).value = value;
  card.querySelector("[data-rows]").append(row);
  return row;
}

// The rows as pairs. As an object of JavaScript their order is not what it was: names like numbers come first in it.
function pairs(overrides, matched) {
  if (Array.isArray(overrides)) return overrides;
  return (matched?.overrides ?? []).map(({ pattern }) => [pattern, overrides[pattern]]);
}

export function fill(card, step, matched) {
  for (const input of settingsOf(card)) {
    const value = step.settings?.[input.dataset.setting];
    if (value === undefined) continue;
    if (isVaried(value)) {
      const words = [value].flat().map((one) => (one === true ? "on" : one === false ? "off" : one));
      vary(input.closest(".setting"), true, words.join(", "));
      continue;
    }
    if (input.dataset.kind === "bool") input.checked = Boolean(value);
    else input.value = value;
    const slider = input.closest(".setting").querySelector("[data-slider]");
    if (slider) slider.value = value;
  }
  for (const box of card.querySelectorAll("[data-other]")) box.checked = [step.technique].flat().slice(1).includes(box.value);
  card.querySelector("[data-beside]").open = othersOf(card).length > 0;
  const { include = ["*"], exclude = [] } = step.layers ?? {};
  card.querySelector("[data-include]").value = include.join(", ");
  card.querySelector("[data-exclude]").value = exclude.join(", ");
  card.querySelector("[data-layers]").open = include.join() !== "*" || exclude.length > 0;
  const overrides = pairs(step.overrides ?? [], matched);
  for (const [pattern, settings] of overrides) addOverride(card, pattern, settings);
  if (overrides.length) card.querySelector("[data-overrides]").open = true;
  showWhen(card);
}

// A setting that depends on another one, such as the group size, is shown only where it has a meaning.
export function showWhen(card) {
  const own = (input) => (varies(input.closest(".setting")) ? valuesOf(input.closest(".setting").querySelector("[data-values]")) : valueOf(input));
  const values = Object.fromEntries(settingsOf(card).map((input) => [input.dataset.setting, own(input)]));
  showSettings(card.querySelector(".settings"), values);
  for (const [index, row] of rowsOf(card).entries()) {
    showSettings(row, { ...values, ...Object.fromEntries(insteadOf(row).map((input) => [input.dataset.instead, valueOf(input)])) });
    row.querySelector('[data-row-move="-1"]').disabled = index === 0;
    row.querySelector('[data-row-move="1"]').disabled = row.nextElementSibling === null;
  }
  const beside = othersOf(card).map((box) => box.parentElement.textContent.trim());
  card.querySelector("[data-beside-summary]").textContent = beside.join(", ") || "this technique alone";
  const summary = card.querySelector("[data-overrides-summary]");
  if (summary) summary.textContent = rowsOf(card).map(patternOf).join(", ") || "none: every layer has the settings above";
  const include = patterns(card.querySelector("[data-include]").value);
  const exclude = patterns(card.querySelector("[data-exclude]").value);
  const all = include.join() === "*" || include.length === 0;
  const text = (all ? "all that it can work on" : include.join(", ")) + (exclude.length ? `, except ${exclude.join(", ")}` : "");
  card.querySelector("[data-layers-summary]").textContent = text;
}

function showSettings(place, values) {
  for (const setting of place.querySelectorAll("[data-show-when]")) {
    const wanted = Object.entries(JSON.parse(setting.dataset.showWhen));
    setting.hidden = wanted.some(([name, value]) => ![values[name]].flat().includes(value));
  }
}

export function showMatches(card, matched) {
  for (const [index, each] of rowsOf(card).entries()) {
    const place = each.querySelector("[data-row-matches]");
    const open = place.querySelector("details")?.open ? [""] : [];
    const decided = matched?.overrides[index]?.layers;
    place.replaceChildren(...(decided ? [row("", decided, "counts for", new Set(open))] : []));
  }
  const names = card.querySelector("[data-names]");
  if (names && matched) names.replaceChildren(...matched.selected.slice(-MOST_NAMES).map((name) => new Option(name, name)));
  const place = card.querySelector("[data-matches]");
  const opened = new Set([...place.querySelectorAll("details[open]")].map((details) => details.dataset.pattern));
  if (!matched) return place.replaceChildren();
  const { include, exclude, selected } = matched;
  const rows = [
    ...include.map((match) => row(match.pattern, match.layers, "matches", opened)),
    ...exclude.map((match) => row(`not ${match.pattern}`, match.layers, "takes out", opened)),
  ];
  if (include.length + exclude.length > 1) rows.push(row("together", selected, "", opened));
  place.replaceChildren(...rows);
}

function row(pattern, layers, verb, opened) {
  const item = document.createElement("li");
  const details = document.createElement("details");
  details.dataset.pattern = pattern;
  details.open = opened.has(pattern);
  const summary = document.createElement("summary");
  const code = document.createElement(verb ? "code" : "span");
  code.textContent = pattern.replace(/^not /, "");
  const count = document.createElement("span");
  count.className = layers.length ? "muted" : "text-bad";
  count.textContent = ` ${verb} ${layers.length} layer${layers.length === 1 ? "" : "s"}`;
  summary.append(code, count);
  const names = document.createElement("p");
  names.className = "mono match-names";
  names.textContent = layers.join("\n") || "none";
  details.append(summary, names);
  item.append(details);
  return item;
}
