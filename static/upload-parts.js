// Sends one file in parts, and goes on where it broke off: by itself, and after a reload once the same file is chosen.
// XMLHttpRequest: fetch cannot tell how much was sent.

const PART_BYTES = 32 * 2 ** 20;
const SILENT_MS = 60_000; // while bytes are still to be sent
const WAIT_MS = [1000, 2000, 5000, 10_000, 20_000, 30_000]; // before the next try; the last one again and again
const UPLOADS = "/api/v1/uploads";

export class Refused extends Error {}

// An answer is {status, body}; status 0: none came, which is for the caller to bear.
export function ask(signal, method, address, headers = {}, body = null, onProgress = () => {}) {
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
    signal.addEventListener("abort", () => request.abort());
    if (body) listen();
    request.send(body);
  });
}

export function refuse({ status, body }) {
  throw new Refused(body.error?.message ?? `The upload was refused (${status}).`);
}

const passing = (status) => status === 0 || status === 408 || status === 409 || status === 429 || (status >= 500 && status !== 507);

// What was begun and not ended, by file: {id, name, options, of}. Kept by the browser; a private window may not.
export class Begun {
  constructor(kind) {
    this.prefix = `upload ${kind} `;
  }

  key(file, path) {
    return `${this.prefix}${path} ${file.size} ${file.lastModified}`;
  }

  keys() {
    try {
      return Object.keys(localStorage).filter((key) => key.startsWith(this.prefix));
    } catch {
      return [];
    }
  }

  get(key) {
    try {
      return JSON.parse(localStorage.getItem(key));
    } catch {
      return null;
    }
  }

  put(key, value) {
    try {
      if (value) localStorage.setItem(key, JSON.stringify(value));
      else localStorage.removeItem(key);
    } catch {
      // without it, a reload begins anew
    }
  }
}

// How far an upload is, as Pare tells; null where it does not know it.
export async function found(id) {
  const answer = await fetch(`${UPLOADS}/${id}`, { headers: { Accept: "application/json" } });
  return { status: answer.status, state: answer.ok ? await answer.json() : null };
}

// One of `part` = {file, path, of}: a file, what it is called, and the folder that it is of.
// `to` = {address, query, begun, signal, show(sent), pause(seconds, why)}. Returns what it became, as the last answer says;
// `part.id` tells where it lies until then. Throws Refused, and when it is stopped.
export async function sendParts(part, to) {
  const { file } = part;
  let tries = 0;
  let state = null;
  while (true) {
    to.signal.throwIfAborted();
    let answer;
    if (!state) {
      answer = await begin(part, to);
    } else {
      const offset = state.offset_bytes;
      const headers = { "Content-Type": "application/partial-upload", "Upload-Offset": offset };
      answer = await ask(to.signal, "PATCH", `${UPLOADS}/${state.id}`, headers, file.slice(offset, offset + PART_BYTES), (sent) => to.show(offset + sent));
    }
    to.signal.throwIfAborted();
    if (answer.status >= 200 && answer.status < 300) {
      if (!state || answer.body.offset_bytes > state.offset_bytes) tries = 0;
      const first = !state;
      state = answer.body;
      part.id = state.id;
      to.show(state.offset_bytes, first);
      if (state.checkpoint_id ?? state.dataset_id ?? state.digest) return state;
    } else if (passing(answer.status)) {
      await to.pause(WAIT_MS[Math.min(tries++, WAIT_MS.length - 1)] / 1000, answer.body.error?.message);
      state = null;
    } else {
      refuse(answer);
    }
  }
}

// How far the upload is that was begun (its id, or the one that the browser remembers), else a new one.
async function begin(part, to) {
  const key = to.begun.key(part.file, part.path);
  const before = to.begun.get(key);
  const known = part.id ?? (before?.options === to.query.toString() ? before.id : null);
  if (known) {
    const answer = await ask(to.signal, "GET", `${UPLOADS}/${known}`);
    if (answer.status !== 404) return answer;
  }
  const query = new URLSearchParams([["name", part.path], ...(part.of ? [] : to.query)]);
  const answer = await ask(to.signal, "POST", `${to.address}?${query}`, { "Upload-Length": part.file.size });
  if (answer.status === 201) to.begun.put(key, { id: answer.body.id, name: part.path, of: part.of, options: to.query.toString() });
  return answer;
}

export async function giveUp(id) {
  for (const milliseconds of WAIT_MS) {
    const answer = await fetch(`${UPLOADS}/${id}`, { method: "DELETE", keepalive: true });
    if (answer.status !== 503) return; // else Pare has not seen yet that the part before was cut off
    await new Promise((resolve) => setTimeout(resolve, milliseconds));
  }
}
