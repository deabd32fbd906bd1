// One card of the recipe builder: its fields to a step and back, and what its patterns match.

const settingsOf = (card) => [...card.querySelectorAll("[data-setting]")];

export function readCard(card) {
  const settings = {};
  for (const input of settingsOf(card)) {
    if (!input.closest(".setting").hidden) settings[input.dataset.setting] = valueOf(input);
  }
  const step = { technique: card.dataset.step, settings };
  const include = patterns(card.querySelector("[data-include]").value);
  const exclude = patterns(card.querySelector("[data-exclude]").value);
  if (exclude.length || include.join() !== "*") step.layers = { include: include.length ? include : ["*"], exclude };
  return step;
}

// What cannot be read as a number stays text: the server's sentence about it is better than ours.
function valueOf(input) {
  const { kind } = input.dataset;
  if (kind === "bool") return input.checked;
  if (kind !== "int" && kind !== "float") return input.value;
  return input.value === "" || Number.isNaN(Number(input.value)) ? input.value : Number(input.value);
}

const patterns = (text) => text.split(/[\s,]+/).filter(Boolean);

export function fill(card, step) {
  for (const input of settingsOf(card)) {
    const value = step.settings?.[input.dataset.setting];
    if (value === undefined) continue;
    if (input.dataset.kind === "bool") input.checked = Boolean(value);
    else input.value = value;
    const slider = input.closest(".setting").querySelector("[data-slider]");
    if (slider) slider.value = value;
  }
  const { include = ["*"], exclude = [] } = step.layers ?? {};
  card.querySelector("[data-include]").value = include.join(", ");
  card.querySelector("[data-exclude]").value = exclude.join(", ");
  card.querySelector("[data-layers]").open = include.join() !== "*" || exclude.length > 0;
  showWhen(card);
}

// A setting that depends on another one, such as the group size, is shown only where it has a meaning.
export function showWhen(card) {
  const values = Object.fromEntries(settingsOf(card).map((input) => [input.dataset.setting, valueOf(input)]));
  for (const setting of card.querySelectorAll("[data-show-when]")) {
    const wanted = Object.entries(JSON.parse(setting.dataset.showWhen));
    setting.hidden = wanted.some(([name, value]) => values[name] !== value);
  }
  const include = patterns(card.querySelector("[data-include]").value);
  const exclude = patterns(card.querySelector("[data-exclude]").value);
  const all = include.join() === "*" || include.length === 0;
  const text = (all ? "all that it can work on" : include.join(", ")) + (exclude.length ? `, except ${exclude.join(", ")}` : "");
  card.querySelector("[data-layers-summary]").textContent = text;
}

export function showMatches(card, matched) {
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
