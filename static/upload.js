// Uploads a file in parts, with its progress. When it breaks off it goes on by itself; after a reload, once the same file
// is chosen. XMLHttpRequest: fetch cannot tell how much was sent.

const form = document.querySelector("[data-upload]");
const input = form.querySelector("input[type=file]");
const zone = form.querySelector("[data-dropzone]");
const bar = form.querySelector("[data-progress]");
const at = (name) => form.querySelector(`[data-${name}]`);
const PART_BYTES = 32 * 2 ** 20;
const SILENT_MS = 60_000; // while bytes are still to be sent
const WAIT_MS = [1000, 2000, 5000, 10_000, 20_000, 30_000]; // before the next try; the last one again and again
const UPLOADS = "/api/v1/uploads";
let stop = null; // an AbortController while a file is being sent

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
  stop = null;
}

class Refused extends Error {}

// An answer is {status, body}; status 0: none came, which is for the caller to bear.
function ask(method, address, headers = {}, body = null, onProgress = () => {}) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    let silence = null;
    const listen = () => {
      clearTimeout(silence);
      silence = setTimeout(() => request.abort(), SILENT_MS);
    };
    request.open(method, address);
    for (const [name, value] of Object.entries({ Accept: "application/json", ...headers })) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => (listen(), onProgress(event.loaded)));
    request.upload.addEventListener("loadend", () => clearTimeout(silence));
    request.addEventListener("loadend", () => {
      let answer = {};
      try {
        answer = JSON.parse(request.responseText);
      } catch {
        // an answer that is not JSON comes from something in between; its status says what there is to say
      }
      resolve({ status: request.status, body: answer });
    });
    stop.signal.addEventListener("abort", () => request.abort());
    if (body) listen();
    request.send(body);
  });
}

function refuse({ status, body }) {
  throw new Refused(body.error?.message ?? `The upload was refused (${status}).`);
}

const passing = (status) => status === 0 || status === 408 || status === 409 || status === 429 || (status >= 500 && status !== 507);

function options() {
  const query = new URLSearchParams();
  const split = form.querySelector("input[name=split]:checked");
  if (split) query.set("split", split.value);
  if (form.querySelector("input[name=dequantize]:checked")) query.set("dequantize", "1");
  const task = form.querySelector("select[name=task]")?.value;
  if (task) query.set("task", task);
  return query;
}

// What was begun and not ended, by file: {id, name, options}. Kept by the browser; a private window may not.
const KEPT = `upload ${form.dataset.upload} `;
const keyOf = (file) => `${KEPT}${file.name} ${file.size} ${file.lastModified}`;

function remembered() {
  try {
    return Object.keys(localStorage).filter((key) => key.startsWith(KEPT));
  } catch {
    return [];
  }
}

function kept(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null;
  }
}

function keep(key, value) {
  try {
    if (value) localStorage.setItem(key, JSON.stringify(value));
    else localStorage.removeItem(key);
  } catch {
    // without it, a reload begins anew
  }
}

async function offer() {
  for (const key of remembered()) {
    const begun = kept(key);
    const answer = await fetch(`${UPLOADS}/${begun?.id}`, { headers: { Accept: "application/json" } });
    if (answer.status === 404) keep(key, null);
    if (!answer.ok || stop) continue;
    const { offset_bytes, size_bytes } = await answer.json();
    at("resume-text").textContent = `The upload of ${begun.name} broke off at ${Math.floor((100 * offset_bytes) / size_bytes)} %. Choose the same file and it goes on from there.`;
    at("resume").hidden = false;
    for (const [name, value] of new URLSearchParams(begun.options)) {
      const control = form.elements[name];
      if (control.type === "checkbox") control.checked = true;
      else control.value = value;
    }
    return;
  }
}

// How far the upload is that was begun (its id, or the one that the browser remembers), else a new one.
async function begin(file, chosen, id) {
  const begun = kept(keyOf(file));
  const known = id ?? (begun?.options === chosen.toString() ? begun.id : null);
  if (known) {
    const answer = await ask("GET", `${UPLOADS}/${known}`);
    if (answer.status !== 404) return answer;
  }
  const query = new URLSearchParams([["name", file.name], ...chosen]);
  const answer = await ask("POST", `${form.dataset.upload}?${query}`, { "Upload-Length": file.size });
  if (answer.status === 201) keep(keyOf(file), { id: answer.body.id, name: file.name, options: chosen.toString() });
  return answer;
}

async function send(file) {
  say("");
  at("resume").hidden = true;
  const limit = Number(form.dataset.limit);
  if (file.size > limit) return say(`${file.name} has ${megabytes(file.size)}; at most ${megabytes(limit)} can be uploaded.`);
  if (file.size === 0) return say(`${file.name} is empty. Choose a file with content.`);
  zone.hidden = true;
  at("uploading").hidden = false;
  at("file").textContent = `${file.name} · ${megabytes(file.size)}`;
  stop = new AbortController();
  const stopped = stop.signal;
  const upload = { id: null };
  try {
    const row = await sendParts(file, options(), upload);
    keep(keyOf(file), null);
    stop = null;
    location.assign(`${form.dataset.after}/${row}`);
  } catch (error) {
    if (!(error instanceof Refused) && !stopped.aborted) throw error;
    keep(keyOf(file), null);
    if (upload.id) giveUp(upload.id);
    idle();
    say(stopped.aborted ? "Stopped. Nothing was kept." : error.message);
  }
}

// The id of the row that the file became; `upload.id` tells where it lies until then. Throws Refused, and at Stop.
async function sendParts(file, chosen, upload) {
  let tries = 0;
  let state = null;
  let clock = null;
  while (true) {
    stop.signal.throwIfAborted();
    let answer;
    if (!state) {
      answer = await begin(file, chosen, upload.id);
    } else {
      const offset = state.offset_bytes;
      const headers = { "Content-Type": "application/partial-upload", "Upload-Offset": offset };
      answer = await ask("PATCH", `${UPLOADS}/${state.id}`, headers, file.slice(offset, offset + PART_BYTES), (sent) => show(offset + sent, file.size, clock));
    }
    stop.signal.throwIfAborted();
    if (answer.status >= 200 && answer.status < 300) {
      if (!state) clock = { at: performance.now(), offset: answer.body.offset_bytes };
      if (!state || answer.body.offset_bytes > state.offset_bytes) tries = 0;
      state = answer.body;
      upload.id = state.id;
      show(state.offset_bytes, file.size, clock);
      const row = state.checkpoint_id ?? state.dataset_id;
      if (row) return row;
    } else if (passing(answer.status)) {
      await pause(WAIT_MS[Math.min(tries++, WAIT_MS.length - 1)], answer.body.error?.message);
      state = null;
    } else {
      refuse(answer);
    }
  }
}

async function pause(milliseconds, why = "Pare does not answer.") {
  for (let left = milliseconds / 1000; left > 0 && !stop.signal.aborted; left--) {
    at("broken-text").textContent = `The upload broke off: ${why} What came is kept; it goes on by itself. Next try in ${left} s.`;
    at("broken").hidden = false;
    at("left").textContent = "";
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

async function giveUp(id) {
  for (const milliseconds of WAIT_MS) {
    const answer = await fetch(`${UPLOADS}/${id}`, { method: "DELETE", keepalive: true });
    if (answer.status !== 503) return; // else Pare has not seen yet that the part before was cut off
    await new Promise((resolve) => setTimeout(resolve, milliseconds));
  }
}

function show(sent, total, clock) {
  at("broken").hidden = true;
  const share = total ? sent / total : 0;
  bar.value = share;
  at("percent").textContent = `${Math.floor(share * 100)} %`;
  const seconds = (performance.now() - clock.at) / 1000;
  const done = (sent - clock.offset) / (total - clock.offset); // of what was to be sent since it began or went on
  const left = done > 0.01 && done < 1 && seconds > 1 ? Math.ceil((seconds / done) * (1 - done)) : null;
  at("left").textContent = left === null ? (share === 1 ? "Writing it to disk…" : "") : `${left} s left`;
}

input.addEventListener("change", () => input.files[0] && send(input.files[0]));
at("stop").addEventListener("click", () => stop?.abort());
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
addEventListener("beforeunload", (event) => stop && event.preventDefault());
form.addEventListener("submit", (event) => event.preventDefault());
offer();
