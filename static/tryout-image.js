// The canvas on which an image is drawn or dropped, and its pixels as a model takes them. Where it is known how
// images were prepared for the model, the chosen file itself is sent, and prepared by the same code.

const LARGEST_FILE = 12_000_000; // bytes that are sent
const canvas = document.getElementById("try-canvas");
const context = canvas?.getContext("2d", { willReadFrequently: true });

let chosen = null; // the file that is shown, until it is drawn on
let given = false; // whether a sample of the dataset is shown, as it is

function clear() {
  chosen = null;
  given = false;
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
}

function drawLine(event, from) {
  chosen = null;
  given = false;
  const box = canvas.getBoundingClientRect();
  const to = [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
  context.strokeStyle = "#fff";
  context.lineWidth = canvas.width / 9;
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  context.moveTo(...(from ?? to));
  context.lineTo(...to);
  context.stroke();
  return to;
}

// The run's own sample, whose file is in the page.
async function showGiven(image) {
  await image.decode();
  const bytes = Uint8Array.from(atob(image.src.slice(image.src.indexOf(",") + 1)), (character) => character.charCodeAt(0));
  await show(new Blob([bytes], { type: image.src.slice(5, image.src.indexOf(";")) }));
  given = true;
}

async function show(file) {
  if (!file?.type.startsWith("image/")) return;
  const image = await createImageBitmap(file);
  const scale = Math.max(canvas.width / image.width, canvas.height / image.height); // the middle of it, filling the square
  const [width, height] = [image.width * scale, image.height * scale];
  clear();
  context.drawImage(image, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
  image.close();
  chosen = file;
}

if (canvas) {
  let last = null;
  clear();
  const sample = document.getElementById("try-given");
  if (sample) showGiven(sample);
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = drawLine(event, null);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (last) last = drawLine(event, last);
  });
  canvas.addEventListener("pointerup", () => (last = null));
  canvas.addEventListener("dragover", (event) => event.preventDefault());
  canvas.addEventListener("drop", (event) => {
    event.preventDefault();
    show(event.dataTransfer.files[0]);
  });
  document.getElementById("try-file").addEventListener("change", (event) => show(event.target.files[0]));
  document.querySelector("[data-clear]").addEventListener("click", clear);
}

/** Whether what is shown is the sample that came with the page. */
export const isGiven = () => given;

/** The file that is shown, or the drawing as PNG, in base64. */
export async function imageOf() {
  const file = chosen ?? (await new Promise((done) => canvas.toBlob(done, "image/png")));
  if (file.size > LARGEST_FILE) throw new Error(`The image has ${file.size} bytes; at most ${LARGEST_FILE} are taken.`);
  const url = await new Promise((done, failed) => {
    const reader = Object.assign(new FileReader(), { onload: () => done(reader.result), onerror: () => failed(reader.error) });
    reader.readAsDataURL(file);
  });
  return url.slice(url.indexOf(",") + 1);
}

/** The drawing as nested lists (channels, height, width), from `black` to `white`; one channel is the mean of three. */
export function sampleOf([channels, height, width], black, white) {
  const [rows, columns] = [height ?? 224, width ?? 224];
  const small = new OffscreenCanvas(columns, rows);
  const smaller = small.getContext("2d");
  smaller.imageSmoothingQuality = "high";
  smaller.drawImage(canvas, 0, 0, columns, rows);
  const { data } = smaller.getImageData(0, 0, columns, rows);
  const value = (row, column, channel) => (data[(row * columns + column) * 4 + channel] / 255) * (white - black) + black;
  const plane = (read) => Array.from({ length: rows }, (_, row) => Array.from({ length: columns }, (_, column) => read(row, column)));
  if (channels === 1) return [plane((r, c) => (value(r, c, 0) + value(r, c, 1) + value(r, c, 2)) / 3)];
  return Array.from({ length: channels }, (_, channel) => plane((r, c) => value(r, c, Math.min(channel, 2))));
}
