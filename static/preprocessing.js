// The preprocessing of images: shown where the dataset holds some, the architecture's own values unless changed.
const form = document.getElementById("builder");
const panel = document.getElementById("preprocessing");
const field = document.getElementById("preprocessing-json");
const problem = document.getElementById("preprocessing-error");
const inputs = [...panel.querySelectorAll("[data-setting]")];
let defaults = null;

const read = () => Object.fromEntries(inputs.map((input) => [input.dataset.setting, value(input)]));

function value(input) {
  return input.dataset.kind === "int" && input.value !== "" ? Number(input.value) : input.value;
}

function fill(values) {
  for (const input of inputs) {
    const given = values[input.dataset.setting];
    if (given !== undefined) input.value = Array.isArray(given) ? given.join(", ") : given;
  }
}

function showWhen() {
  const now = read();
  for (const setting of panel.querySelectorAll("[data-show-when]")) {
    const wanted = Object.entries(JSON.parse(setting.dataset.showWhen));
    setting.hidden = wanted.some(([name, of]) => ![of].flat().includes(now[name]));
  }
}

function draw(samples) {
  const list = document.getElementById("preprocessing-samples");
  list.replaceChildren(
    ...samples.map((sample) => {
      const item = document.createElement("li");
      const image = document.createElement("img");
      image.src = sample.image;
      image.alt = `A sample of class ${sample.label}, prepared`;
      const about = document.createElement("span");
      about.textContent = sample.label;
      const range = document.createElement("small");
      range.className = "muted";
      range.textContent = `${sample.low.toFixed(2)} to ${sample.high.toFixed(2)}`;
      item.append(image, about, range);
      return item;
    }),
  );
}

// Asks for the defaults of this checkpoint and for samples prepared as the fields say. Only the newest answer counts.
let asked = new AbortController();
async function look(fresh) {
  asked.abort();
  asked = new AbortController();
  const query = new URLSearchParams({
    checkpoint: form.elements.checkpoint.value,
    dataset: form.elements.dataset.value,
    training_dataset: form.elements.training_dataset.value,
  });
  if (!fresh) query.set("preprocessing", field.value);
  try {
    const answer = await fetch(`${panel.dataset.preview}?${query}`, { signal: asked.signal });
    const found = await answer.json();
    panel.hidden = !found.defaults;
    if (panel.hidden) {
      field.value = "";
      return;
    }
    defaults = found.defaults;
    if (fresh) {
      fill(defaults);
      field.value = JSON.stringify(read());
    }
    showWhen();
    problem.textContent = found.error ?? "";
    problem.hidden = !found.error;
    if (found.samples) draw(found.samples);
  } catch (error) {
    if (error.name === "AbortError") return;
    problem.textContent = "Pare does not answer; the samples are out of date. Check that it is running.";
    problem.hidden = false;
  }
}

let timer = 0;
panel.addEventListener("input", () => {
  showWhen();
  field.value = JSON.stringify(read());
  clearTimeout(timer);
  timer = setTimeout(() => look(false), 250);
});
document.getElementById("preprocessing-reset").addEventListener("click", () => look(true));
form.elements.dataset.addEventListener("change", () => look(true));
form.elements.training_dataset.addEventListener("change", () => look(true));
form.elements.checkpoint.addEventListener("change", () => look(true));

let given = null;
try {
  given = JSON.parse(field.value);
} catch {
  // nothing was asked for yet
}
if (given) fill(given);
look(!given);
