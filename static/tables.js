// Tables that sort by a click on a heading, and that a search narrows. Fine with some thousands of rows.

function sortable(table) {
  const body = table.tBodies[0];
  const place = table.closest("[data-refresh]") ?? table; // it remembers the order while its table is put in place anew
  for (const [column, heading] of [...table.tHead.rows[0].cells].entries()) {
    if (heading.querySelector(".visually-hidden")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    const by = (order) => {
      for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", order);
      sort(body, column, order === "ascending" ? 1 : -1);
      place.sorted = { column, order };
    };
    button.addEventListener("click", () => {
      // Figures start with the largest, words with the first.
      const first = heading.classList.contains("num") ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      by(heading.getAttribute("aria-sort") === first ? second : first);
    });
    if (place.sorted?.column === column) by(place.sorted.order);
  }
}

const collator = new Intl.Collator(undefined, { numeric: true });

function sort(body, column, direction) {
  const rows = [...body.rows].map((row) => {
    const cell = row.cells[column];
    return { row, key: cell?.dataset.value ?? cell?.textContent.trim() ?? "" };
  });
  const numbers = rows.every(({ key }) => key !== "" && Number.isFinite(Number(key)));
  const compare = numbers ? (a, b) => Number(a.key) - Number(b.key) : (a, b) => collator.compare(a.key, b.key);
  rows.sort((a, b) => direction * compare(a, b));
  body.append(...rows.map(({ row }) => row));
}

for (const section of document.querySelectorAll("[data-table]")) {
  const search = section.querySelector("[data-search]");
  const found = section.querySelector("[data-found]");
  const rows = [...section.querySelector("tbody").rows].map((row) => ({ row, text: row.textContent.toLowerCase() }));
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const { row, text } of rows) {
      row.hidden = !words.every((word) => text.includes(word));
      if (!row.hidden) count += 1;
    }
    found.textContent = words.length ? `${count} of ${rows.length}` : String(rows.length);
  });
}

const all = (within) => within.querySelectorAll("table[data-sortable]").forEach(sortable);
all(document);
document.addEventListener("refreshed", ({ detail }) => all(detail));
