// Uploads a file as it is, by PUT, with its progress. XMLHttpRequest: fetch cannot tell how much was sent.

const form = document.querySelector("[data-upload]");
const input = form.querySelector("input[type=file]");
const zone = form.querySelector("[data-dropzone]");
const bar = form.querySelector("[data-progress]");
const at = (name) => form.querySelector(`[data-${name}]`);
let request = null;

function megabytes(size) {
  return size < 1e6 ? `${(size / 1e3).toFixed(1)} kB` : size < 1e9 ? `${(size / 1e6).toFixed(1)} MB` : `${(size / 1e9).toFixed(2)} GB`;
}

function say(message) {
  at("error").hidden = !message;
  at("error-text").textContent = message;
}

function idle() {
  at("uploading").hidden = true;
  zone.hidden = false;
  input.value = "";
  request = null;
}

function send(file) {
  say("");
  const limit = Number(form.dataset.limit);
  if (file.size > limit) return say(`${file.name} has ${megabytes(file.size)}; at most ${megabytes(limit)} can be uploaded.`);
  if (file.size === 0) return say(`${file.name} is empty. Choose a file with content.`);
  const query = new URLSearchParams({ name: file.name });
  const split = form.querySelector("input[name=split]:checked");
  if (split) query.set("split", split.value);
  if (form.querySelector("input[name=dequantize]:checked")) query.set("dequantize", "1");
  const task = form.querySelector("select[name=task]")?.value;
  if (task) query.set("task", task);
  zone.hidden = true;
  at("uploading").hidden = false;
  at("file").textContent = `${file.name} · ${megabytes(file.size)}`;
  const begun = performance.now();
  show(0, file.size, begun);
  request = new XMLHttpRequest();
  request.open("PUT", `${form.dataset.upload}?${query}`);
  request.setRequestHeader("Accept", "application/json");
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.upload.addEventListener("progress", (event) => show(event.loaded, event.total, begun));
  request.addEventListener("load", answered);
  request.addEventListener("error", () => {
    idle();
    say("The upload broke off: Pare does not answer. Nothing was kept; check that it is running and try again.");
  });
  request.addEventListener("abort", () => {
    idle();
    say("Stopped. Nothing was kept.");
  });
  request.send(file);
}

function show(sent, total, begun) {
  const share = total ? sent / total : 0;
  bar.value = share;
  at("percent").textContent = `${Math.floor(share * 100)} %`;
  const seconds = (performance.now() - begun) / 1000;
  const left = share > 0.01 && share < 1 && seconds > 1 ? Math.ceil((seconds / share) * (1 - share)) : null;
  at("left").textContent = left === null ? (share === 1 ? "Writing it to disk…" : "") : `${left} s left`;
}

function answered() {
  let answer = {};
  try {
    answer = JSON.parse(request.responseText);
  } catch {
    // an answer that is not JSON comes from something in between; its status says what there is to say
  }
  if (request.status >= 200 && request.status < 300 && answer.id) {
    location.assign(`${form.dataset.after}/${answer.id}`);
    return;
  }
  const { status } = request;
  idle();
  say(answer.error?.message ?? `The upload was refused (${status}). Nothing was kept.`);
}

input.addEventListener("change", () => input.files[0] && send(input.files[0]));
at("stop").addEventListener("click", () => request?.abort());
for (const name of ["dragenter", "dragover"]) {
  zone.addEventListener(name, (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
}
for (const name of ["dragleave", "drop"]) zone.addEventListener(name, () => zone.classList.remove("over"));
zone.addEventListener("drop", (event) => {
  event.preventDefault();
  const [file, ...more] = event.dataTransfer.files;
  if (more.length) return say("Drop one file at a time. Pack a folder into a zip first.");
  if (file) send(file);
});
addEventListener("beforeunload", (event) => request && request.readyState !== XMLHttpRequest.DONE && event.preventDefault());
form.addEventListener("submit", (event) => event.preventDefault());
