// Keeps what a program would ask beside a form that is filled in.

const python = (value, indent = "") => {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}    `;
  const items = Array.isArray(value)
    ? value.map((item) => python(item, inner))
    : Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${python(item, inner)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const line = `${open}${items.join(", ")}${close}`;
  return line.length + indent.length <= 88 && !line.includes("\n") ? line : `${open}\n${items.map((item) => `${inner}${item},\n`).join("")}${indent}${close}`;
};

const quoted = (text) => `'${text.replaceAll("'", `'"'"'`)}'`;

// Without what is null or empty: the request means the same, and is read sooner.
const isSaid = (value) => value !== null && value !== "" && !(typeof value === "object" && !Object.keys(value).length);
const onlySaid = (body) => Object.fromEntries(Object.entries(body).filter(([, value]) => isSaid(value)));

export function showCall(path, body) {
  const calls = document.getElementById("calls");
  if (!calls) return;
  const said = onlySaid(body.sweep ? { ...body, sweep: onlySaid(body.sweep) } : body);
  const curl = document.getElementById("call-start-curl");
  const program = document.getElementById("call-start-python");
  if (!curl) return; // it was too long to be shown
  const before = (text, mark) => text.slice(0, text.indexOf(mark) + mark.length);
  curl.textContent = `${before(curl.textContent, "--json ")}${quoted(JSON.stringify(said))} \\\n  ${quoted(`${calls.dataset.root}api/v1${path}`)}`;
  program.textContent = `${before(program.textContent, "body = ")}${python(said)}\nstarted = pare.call("POST", "${path}", body)\n`;
}
