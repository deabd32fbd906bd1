// Uploads a file, or the files of a folder, with its progress.
import { ofDrop, ofList, partsOf } from "./upload-folder.js";
import { ask, Begun, found, giveUp, refuse, Refused, sendParts } from "./upload-parts.js";

const form = document.querySelector("[data-upload]");
const input = form.querySelector("input[type=file]");
const zone = form.querySelector("[data-dropzone]");
const bar = form.querySelector("[data-progress]");
const at = (name) => form.querySelector(`[data-${name}]`);
const begun = new Begun(form.dataset.upload);
const takesFolders = input.multiple;
let stop = null; // an AbortController while something is being sent

function megabytes(size) {
  return size < 1e6 ? `${(size / 1e3).toFixed(1)} kB` : size < 1e9 ? `${(size / 1e6).toFixed(1)} MB` : `${(size / 1e9).toFixed(2)} GB`;
}

function say(message) {
  at("error").hidden = !message;
  at("error-text").textContent = message;
}

function choosing(allowed) {
  at("uploading").hidden = allowed;
  zone.hidden = !allowed;
  if (at("folders")) at("folders").hidden = !allowed;
}

function idle() {
  choosing(true);
  input.value = "";
  stop = null;
}

function options() {
  const query = new URLSearchParams();
  const split = form.querySelector("input[name=split]:checked");
  if (split) query.set("split", split.value);
  if (form.querySelector("input[name=dequantize]:checked")) query.set("dequantize", "1");
  const task = form.querySelector("select[name=task]")?.value;
  if (task) query.set("task", task);
  const newerThan = form.querySelector("select[name=newer_than_id]")?.value;
  if (newerThan) query.set("newer_than_id", newerThan);
  return query;
}

async function offer() {
  for (const key of begun.keys()) {
    const before = begun.get(key);
    const { status, state } = await found(before?.id);
    if (status === 404) begun.put(key, null);
    if (!state || stop) continue;
    const share = Math.floor((100 * state.offset_bytes) / state.size_bytes);
    at("resume-text").textContent = before.of
      ? `The upload of the folder ${before.of} broke off, ${before.name} at ${share} %. Choose the same folder and it goes on from there.`
      : `The upload of ${before.name} broke off at ${share} %. Choose the same file and it goes on from there.`;
    at("resume").hidden = false;
    for (const [name, value] of new URLSearchParams(before.options)) {
      const control = form.elements[name];
      if (control.type === "checkbox") control.checked = true;
      else control.value = value;
    }
    return;
  }
}

async function send(given) {
  say("");
  at("resume").hidden = true;
  let chosen;
  try {
    chosen = partsOf(await given);
  } catch (error) {
    if (error instanceof Refused) return say(error.message);
    throw error;
  }
  const { name, parts } = chosen;
  const limit = Number(form.dataset.limit);
  const total = parts.reduce((sum, { file }) => sum + file.size, 0);
  const called = parts.length > 1 ? `${name}, ${parts.length} files` : parts[0].path;
  if (total > limit) return say(`${called} has ${megabytes(total)}; at most ${megabytes(limit)} can be uploaded.`);
  if (total === 0) return say(`${called} is empty. Choose a file with content.`);
  choosing(false);
  at("file").textContent = `${called} · ${megabytes(total)}`;
  stop = new AbortController();
  const { signal } = stop;
  const forget = () => parts.forEach(({ file, path }) => begun.put(begun.key(file, path), null));
  try {
    const row = parts.length > 1 ? await sendFolder(name, parts, total, signal) : await sendFile(parts[0], signal);
    forget();
    stop = null;
    location.assign(`${form.dataset.after}/${row}`);
  } catch (error) {
    if (!(error instanceof Refused) && !signal.aborted) throw error;
    forget();
    for (const { id } of parts) if (id) giveUp(id);
    idle();
    say(signal.aborted ? "Stopped. Nothing was kept." : error.message);
  }
}

async function sendFile(part, signal) {
  const state = await sendParts(part, { address: form.dataset.upload, query: options(), begun, signal, ...shown(part.file.size) });
  return state.checkpoint_id ?? state.dataset_id;
}

// One after the other; then they become one checkpoint.
async function sendFolder(name, parts, total, signal) {
  const query = options();
  const progress = shown(total);
  let before = 0;
  for (const part of parts) {
    part.of = name;
    at("part").textContent = part.path;
    const show = (sent, first) => progress.show(before + sent, first);
    await sendParts(part, { address: "/api/v1/files", query, begun, signal, show, pause: progress.pause });
    before += part.file.size;
  }
  const body = { name, files: Object.fromEntries(parts.map(({ path, id }) => [path, id])), dequantize: query.has("dequantize"), task: query.get("task"), newer_than_id: query.get("newer_than_id") };
  const key = crypto.getRandomValues(new Uint32Array(4)).join("-"); // an answer that is lost is not asked for twice
  const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
  while (true) {
    const answer = await ask(signal, "POST", "/api/v1/folders", headers, JSON.stringify(body));
    signal.throwIfAborted();
    if (answer.status === 201) return answer.body.id;
    if (answer.status !== 0 && (answer.status < 500 || answer.status === 507)) refuse(answer);
    await progress.pause(5, answer.body.error?.message);
  }
}

// What is told of so many bytes while they are sent.
function shown(total) {
  let clock = null;
  return {
    show(sent, first = false) {
      if (!clock || (first && sent > clock.sent)) clock = { at: performance.now(), offset: sent }; // what had come before is no speed
      clock.sent = sent;
      at("broken").hidden = true;
      const share = total ? sent / total : 0;
      bar.value = share;
      at("percent").textContent = `${Math.floor(share * 100)} %`;
      const seconds = (performance.now() - clock.at) / 1000;
      const done = (sent - clock.offset) / (total - clock.offset); // of what was to be sent since it began or went on
      const left = done > 0.01 && done < 1 && seconds > 1 ? Math.ceil((seconds / done) * (1 - done)) : null;
      at("left").textContent = left === null ? (share === 1 ? "Writing it to disk…" : "") : `${left} s left`;
    },
    async pause(seconds, why = "Pare does not answer.") {
      for (let left = seconds; left > 0 && !stop?.signal.aborted; left--) {
        at("broken-text").textContent = `The upload broke off: ${why} What came is kept; it goes on by itself. Next try in ${left} s.`;
        at("broken").hidden = false;
        at("left").textContent = "";
        await new Promise((resolve) => setTimeout(resolve, 1000));
      }
    },
  };
}

function chooseFolder() {
  const picker = Object.assign(document.createElement("input"), { type: "file", webkitdirectory: true });
  picker.addEventListener("change", () => picker.files.length && send(ofList(picker.files)));
  picker.click();
}

input.addEventListener("change", () => input.files.length && send(ofList(input.files)));
at("folder")?.addEventListener("click", chooseFolder);
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
  if (!takesFolders && event.dataTransfer.files.length > 1) return say("Drop one file at a time. Pack a folder into a zip first.");
  if (event.dataTransfer.files.length) send(takesFolders ? ofDrop(event.dataTransfer) : ofList(event.dataTransfer.files));
});
addEventListener("beforeunload", (event) => stop && event.preventDefault());
form.addEventListener("submit", (event) => event.preventDefault());
if (input.files.length) send(ofList(input.files)); // chosen before this script was there
else offer();
