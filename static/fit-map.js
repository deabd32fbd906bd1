// The map of layers: what the budget chose for each, and the options of the one that is opened.

import { bytes, significant } from "./predict.js";

const at = (id) => document.getElementById(id);
const GONE = { option: -1, label: "cut out", bytes: 0 }; // a layer that leaves with its block
const EDGE = 8; // pixels that the tip keeps away from the window's edges

function element(name, text, classes = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (classes) made.className = classes;
  return made;
}

// `decide(name, option)` locks a layer at an option, or with null leaves it to the budget.
export function layerMap(known, decide) {
  const { layers, levels, loss_unit: unit } = known;
  const grid = at("map");
  const places = [...grid.querySelectorAll("[data-layer]")].sort((a, b) => a.dataset.layer - b.dataset.layer);
  const rows = [...at("layer-table").tBodies[0].rows].sort((a, b) => a.dataset.row - b.dataset.row);
  const tip = at("map-tip");
  const dialog = at("options");
  let answer = null;
  let locks = {};
  let shown = [];
  let opened = null;
  let forecast = null;

  const option = (number) => answer.layers[number].option;
  const cost = (number) => layers[number].options[option(number)]?.[2] ?? 0; // of all families alike
  const bits = (number) => (8 * answer.layers[number].bytes) / layers[number].params;
  const level = (value) => levels.filter((from) => from <= value).length;

  function told(number) {
    const chosen = answer.layers[number];
    const total = layers.reduce((sum, _, each) => sum + cost(each), 0);
    const share = total > 0 ? `, ${((100 * cost(number)) / total).toFixed(1)} % of all` : "";
    return [
      `${chosen.label}${layers[number].name in locks ? ", decided by you" : ""}`,
      `${bytes(chosen.bytes)} of ${bytes(layers[number].bytes)}, ${bits(number).toFixed(2)} bits per weight`,
      layers[number].unreached ? "no sample reached it: it costs nothing on this data" : `loss ${significant(cost(number))} ${unit}${share}`,
    ];
  }

  function show(found, kept) {
    const chosenBy = new Map(found.layers.map((chosen) => [chosen.name, chosen]));
    answer = { ...found, layers: layers.map(({ name }) => chosenBy.get(name) ?? GONE) };
    locks = kept;
    answer.layers.forEach((chosen, number) => {
      const { name } = layers[number];
      const now = `${chosen.option} ${chosen.bytes} ${name in locks}`;
      if (shown[number] === now) return;
      shown[number] = now;
      const place = places[number];
      place.textContent = (chosen === GONE ? "cut" : bits(number).toFixed(1)) + ("wide" in place.dataset ? ` · ${chosen.label}` : "");
      place.dataset.level = level(bits(number));
      place.toggleAttribute("data-locked", name in locks);
      place.setAttribute("aria-label", `${name}: ${told(number).slice(0, 2).join(", ")}`);
      fill(rows[number], chosen, number);
    });
    if (opened !== null) mark();
  }

  function foretold() {
    const [was, now] = [forecast, answer].map(({ expected }) => significant(expected.loss.value));
    return `The file: ${bytes(answer.size_bytes)}, expected loss ${now} ${unit}${was === now ? "." : `; it was ${was}.`}`;
  }

  function fill(row, chosen, number) {
    const put = (name, text, value) => {
      const cell = row.querySelector(`[data-${name}]`);
      cell.textContent = text;
      if (value !== undefined) cell.dataset.value = value;
    };
    const saved = layers[number].bytes - chosen.bytes;
    put("choice", `${chosen.label}${layers[number].name in locks ? " (yours)" : ""}`);
    put("bits", bits(number).toFixed(2), bits(number));
    put("bytes", bytes(chosen.bytes), chosen.bytes);
    put("saved", bytes(saved), saved);
    put("loss", layers[number].unreached ? "not reached" : significant(cost(number)), cost(number));
  }

  // ---- the tip ----
  function point(place) {
    const number = place.dataset.layer;
    tip.replaceChildren(element("strong", layers[number].name), ...told(number).map((text) => element("span", text)));
    tip.hidden = false;
    const box = place.getBoundingClientRect();
    const left = Math.min(Math.max(EDGE, box.left + box.width / 2 - tip.offsetWidth / 2), innerWidth - tip.offsetWidth - EDGE);
    const above = box.top - tip.offsetHeight - EDGE;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > EDGE ? above : box.bottom + EDGE}px`;
  }
  const placeOf = (event) => event.target.closest?.("[data-layer]");
  grid.addEventListener("pointerover", (event) => (placeOf(event) ? point(placeOf(event)) : (tip.hidden = true)));
  grid.addEventListener("pointerleave", () => (tip.hidden = true));
  grid.addEventListener("focusin", (event) => {
    const place = placeOf(event);
    if (!place) return;
    for (const other of grid.querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
    place.tabIndex = 0;
    if (place.matches(":focus-visible")) point(place);
  });
  grid.addEventListener("focusout", () => (tip.hidden = true));
  addEventListener("scroll", () => (tip.hidden = true), { capture: true, passive: true });

  // ---- the keyboard ----
  const lines = [...grid.tBodies[0].rows].map((row) => [...row.cells].slice(1));
  const held = (cell) => cell?.dataset.layer !== undefined;
  function beside(place, key, all) {
    const line = lines.findIndex((cells) => cells.includes(place));
    const column = lines[line].indexOf(place);
    const along = (by) => {
      for (let to = column + by; to >= 0 && to < lines[line].length; to += by) if (held(lines[line][to])) return lines[line][to];
      return place;
    };
    const across = (by) => {
      for (let to = line + by; to >= 0 && to < lines.length; to += by) {
        const cell = lines[to].length === 1 ? lines[to][0] : lines[to][column];
        if (held(cell)) return cell;
      }
      return place;
    };
    const ends = (cells) => [cells.find(held), cells.findLast(held)];
    return {
      ArrowLeft: () => along(-1),
      ArrowRight: () => along(1),
      ArrowUp: () => across(-1),
      ArrowDown: () => across(1),
      Home: () => (all ? ends(lines.flat()) : ends(lines[line]))[0],
      End: () => (all ? ends(lines.flat()) : ends(lines[line]))[1],
    }[key]?.();
  }
  grid.addEventListener("keydown", (event) => {
    const place = placeOf(event);
    if (!place) return;
    if (event.key === "Enter" || event.key === " ") open(Number(place.dataset.layer));
    else {
      const next = beside(place, event.key, event.ctrlKey);
      if (!next) return;
      next.focus();
    }
    event.preventDefault();
  });
  grid.addEventListener("click", (event) => placeOf(event) && open(Number(placeOf(event).dataset.layer)));
  at("layer-table").addEventListener("click", ({ target }) => target.dataset.open && open(Number(target.dataset.open)));

  // ---- the options of a layer ----
  function open(number) {
    opened = number;
    forecast = answer;
    const layer = layers[number];
    tip.hidden = true;
    at("options-title").textContent = layer.name;
    at("options-facts").textContent = [layer.shape.join(" × "), `${layer.params.toLocaleString("en-US")} parameters`, `${bytes(layer.bytes)} now`].filter(Boolean).join(", ");
    const order = layer.options.map((_, index) => index).sort((a, b) => layer.options[b][1] - layer.options[a][1]);
    at("options-rows").replaceChildren(
      ...order.map((index) => {
        const [label, size, loss] = layer.options[index];
        const row = document.createElement("tr");
        row.dataset.option = index;
        const named = document.createElement("label");
        const radio = Object.assign(document.createElement("input"), { type: "radio", name: "option", value: index, className: "form-check-input" });
        named.append(radio, element("span", label));
        const cell = row.insertCell();
        cell.append(named);
        row.append(element("td", bytes(size), "num secondary"), element("td", bytes(layer.bytes - size), "num"), element("td", significant(loss), "num"));
        return row;
      }),
    );
    mark();
    dialog.showModal();
    at("options-rows").querySelector(":checked")?.closest("tr").scrollIntoView({ block: "center" });
  }

  function mark() {
    const locked = layers[opened].name in locks;
    for (const row of at("options-rows").rows) {
      const chosen = Number(row.dataset.option) === (locks[layers[opened].name] ?? option(opened));
      row.classList.toggle("chosen", chosen);
      row.querySelector("input").checked = chosen;
    }
    at("options-unlock").disabled = !locked;
    at("options-forecast").textContent = foretold();
  }

  // A click, for what the budget chose already can be decided too; the arrow keys click as well.
  at("options-rows").addEventListener("click", ({ target }) => target.name === "option" && decide(layers[opened].name, Number(target.value)));
  at("options-unlock").addEventListener("click", () => decide(layers[opened].name, null));
  dialog.addEventListener("click", ({ target }) => (target === dialog || target.closest("[data-close]")) && dialog.close());
  dialog.addEventListener("close", () => {
    places[opened]?.scrollIntoView({ block: "nearest" });
    opened = null;
  });
  if (places.length) lines.flat().find(held).tabIndex = 0;
  return { show };
}
