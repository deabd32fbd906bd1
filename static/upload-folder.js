// Which files of a folder, or of several files that were chosen, are parts of a checkpoint: {name, parts: [{file, path}]}.
import { Refused } from "./upload-parts.js";

const READ = /\.(json|safetensors|bin|txt|jinja|model)$/;
const IMPORTANCE = /^[^/]*imatrix[^/]*\.(gguf|dat)$|^[^/]+\.imatrix$/i; // llama.cpp's, beside the weights
const BELOW = ["1_Pooling/config.json"]; // of what lies deeper
const WEIGHTS = /\.(safetensors|bin)$/;
const LEFT_OUT = ["training_args.bin", "optimizer.bin", "scheduler.bin", "trainer_state.json"];

export function partsOf(given) {
  const pathless = given.every(({ path }) => !path.includes("/"));
  const name = pathless ? "" : given[0].path.split("/")[0];
  const files = given.map(({ file, path }) => ({ file, path: pathless ? path : path.split("/").slice(1).join("/") }));
  const top = files.filter(({ path }) => !path.includes("/"));
  if (files.length === 1) return { name, parts: files };
  const ggufs = files.filter(({ path }) => !IMPORTANCE.test(path));
  if (ggufs.length === 1 && ggufs[0].path.endsWith(".gguf")) return { name: name || ggufs[0].path, parts: files };
  if (!top.some(({ path }) => path === "config.json")) {
    const why = pathless ? "Add the config.json that belongs to them, or choose one file" : "Choose the folder that config.json lies in, or one file";
    throw new Refused(`There is no config.json among the ${files.length} files, which says what model they are. ${why}.`);
  }
  const safetensors = top.some(({ path }) => path.endsWith(".safetensors"));
  const taken = files.filter(
    ({ file, path }) =>
      file.size && (BELOW.includes(path) || (!path.includes("/") && (READ.test(path) || IMPORTANCE.test(path)) && !LEFT_OUT.includes(path) && !(safetensors && path.endsWith(".bin")))),
  );
  if (!taken.some(({ path }) => WEIGHTS.test(path))) throw new Refused("There are no weights beside config.json: .safetensors or .bin, in one file or in shards.");
  return { name: name || "checkpoint", parts: taken };
}

export const ofList = (list) => [...list].map((file) => ({ file, path: file.webkitRelativePath || file.name }));

// What was dropped: files, and what is in folders.
export async function ofDrop(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return ofList(transfer.files);
  if (entries.length > 1) throw new Refused("Drop one folder at a time.");
  return within(entries[0], entries[0].name, 0);
}

async function within(directory, path, depth) {
  const reader = directory.createReader();
  const found = [];
  while (true) {
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // a hundred at a time
    if (!entries.length) return found;
    for (const entry of entries) {
      if (entry.isFile) found.push({ file: await new Promise((resolve, reject) => entry.file(resolve, reject)), path: `${path}/${entry.name}` });
      else if (depth < 1) found.push(...(await within(entry, `${path}/${entry.name}`, depth + 1)));
    }
  }
}
