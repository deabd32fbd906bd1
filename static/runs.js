// The table of runs: filters apply as they are chosen, rows change as runs do, ticks are counted and kept over pages.

const filters = document.querySelector("[data-filters]");
if (filters) {
  filters.querySelector("[data-filter-button]").hidden = true;
  filters.addEventListener("change", ({ target }) => target.name !== "column" && filters.requestSubmit());
}
document.addEventListener("click", ({ target }) => {
  for (const open of document.querySelectorAll(".columns-choice[open], .tagging[open]")) if (!open.contains(target)) open.open = false;
});
document.addEventListener("keydown", ({ key }) => {
  const open = key === "Escape" && document.activeElement?.closest(".columns-choice[open], .tagging[open]");
  if (open) [open.open] = [false, open.querySelector("summary").focus()];
});

// What is ticked; the answer counts it anew.
function choosing(form) {
  const boxes = () => [...form.querySelectorAll("input[type=checkbox][name=run]")];
  const everything = form.querySelector("[data-all]");
  const chosen = form.querySelector("[data-chosen]");
  const none = form.querySelector("[data-none]");
  const ask = chosen.textContent;
  const head = form.querySelector("[data-choose-all]");
  const page = document.createElement("input");
  Object.assign(page, { type: "checkbox", className: "form-check-input" });
  page.setAttribute("aria-label", "Choose all on this page");
  head.replaceChildren(page);

  // Ticks of other pages of this table wait in the session, and go along as hidden fields.
  const key = "runs chosen";
  const kept = new Set(JSON.parse(sessionStorage.getItem(key) ?? "[]"));
  const others = document.createElement("div");
  form.append(others);
  for (const box of boxes()) box.checked ||= kept.has(box.value);

  function count() {
    for (const box of boxes()) kept[box.checked ? "add" : "delete"](box.value);
    sessionStorage.setItem(key, JSON.stringify([...kept]));
    const here = boxes();
    const elsewhere = [...kept].filter((id) => !here.some((box) => box.value === id));
    others.replaceChildren(...elsewhere.map((value) => Object.assign(document.createElement("input"), { type: "hidden", name: "run", value })));
    const ticked = here.filter((box) => box.checked).length;
    page.checked = ticked === here.length;
    page.indeterminate = ticked > 0 && ticked < here.length;
    const away = elsewhere.length ? `, ${elsewhere.length} of them on other pages` : "";
    chosen.textContent = everything.checked ? "All are chosen" : kept.size ? `${kept.size} chosen${away}` : ask;
    none.hidden = !(kept.size || everything.checked);
    for (const button of form.querySelectorAll("button[name=action]")) button.disabled = !(kept.size || everything.checked);
  }
  form.addEventListener("change", ({ target }) => {
    if (target === page) for (const box of boxes()) box.checked = page.checked;
    count();
  });
  none.addEventListener("click", () => {
    for (const box of [...boxes(), everything]) box.checked = false;
    kept.clear();
    count();
    page.focus();
  });
  form.addEventListener("submit", () => sessionStorage.removeItem(key));
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.target.name !== "tags") return;
    event.preventDefault(); // the first button of the form would be pressed
    form.querySelector("button[value=tag]").click();
  });
  count();
  return count;
}

// Rows that are seen are asked for while the page is; the answer is mostly that nothing has changed.
function live(place, form, count) {
  const SOON_MS = 2000;
  const LATER_MS = 10_000;
  const body = form?.querySelector("tbody");
  const fresh = place.querySelector("[data-fresh]");
  const said = document.querySelector("[data-said]");
  const since = place.dataset.begun;
  let etag = "";

  const idOf = (row) => row.id.slice("run-".length);
  const announce = (text) => said.textContent !== text && (said.textContent = text);

  async function look() {
    if (document.hidden) return;
    const address = new URL(place.dataset.rows, location.href);
    for (const row of body?.rows ?? []) address.searchParams.append("run", idOf(row));
    address.searchParams.set("since", since);
    const answer = await fetch(address, { headers: etag ? { "If-None-Match": etag } : {}, cache: "no-store" });
    if (answer.status !== 200) return;
    const news = await answer.json();
    if (!body) return news.total && location.reload(); // the first run of all, or the first that matches
    if (put(news)) etag = answer.headers.get("ETag"); // else what could not be put is asked for again
    for (const total of document.querySelectorAll("[data-total]")) total.textContent = news.total.toLocaleString("en");
    count();
    document.dispatchEvent(new CustomEvent("refreshed", { detail: place }));
  }

  // Returns whether all that is seen is new: what holds the focus stays as it is.
  function put({ rows, added, fresh: number }) {
    const known = new Map([...body.rows].map((row) => [idOf(row), row]));
    const unknown = added.filter((id) => !known.has(id));
    let whole = true;
    for (const [id, row] of known) {
      row.classList.toggle("gone", !(id in rows));
      if (!(id in rows) || row.markup === rows[id]) continue;
      const next = made(rows[id]);
      next.querySelector("input[name=run]").checked = row.querySelector("input[name=run]").checked;
      if (!row.contains(document.activeElement)) row.replaceWith(next);
      else if (!putAround(row, next)) whole = false;
    }
    body.prepend(...unknown.map((id) => made(rows[id])));
    const others = number - added.length; // that are not on this page
    fresh.hidden = others <= 0;
    fresh.querySelector("[data-fresh-count]").textContent = others === 1 ? "1 new run." : `${others} new runs.`;
    if (unknown.length || others > 0) announce(number === 1 ? "1 new run." : `${number} new runs.`);
    return whole;
  }

  function putAround(row, next) {
    const cells = [...next.cells];
    let whole = true;
    row.dataset.state = next.dataset.state;
    for (const [at, cell] of [...row.cells].entries()) {
      if (cell.isEqualNode(cells[at])) continue;
      if (cell.contains(document.activeElement)) whole = false;
      else cell.replaceWith(cells[at]);
    }
    if (whole) row.markup = next.markup;
    return whole;
  }

  function made(markup) {
    const holder = document.createElement("template");
    holder.innerHTML = markup.trim();
    const row = holder.content.firstElementChild;
    row.markup = markup;
    return row;
  }

  async function goOn() {
    try {
      await look();
    } catch {
      // Pare does not answer right now; the next look tries again
    }
    const busy = body?.querySelector('[data-state="running"], [data-state="queued"]');
    setTimeout(goOn, busy || !body ? SOON_MS : LATER_MS);
  }
  setTimeout(goOn, SOON_MS);
  document.addEventListener("visibilitychange", () => look().catch(() => {}));
}

const place = document.querySelector("[data-rows]");
const form = place.querySelector("[data-runs]");
live(place, form, form ? choosing(form) : () => {});
