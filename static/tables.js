// Tables that sort by a click on a heading, and that a search narrows. Fine with some thousands of rows.

for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  for (const [column, heading] of [...table.tHead.rows[0].cells].entries()) {
    if (heading.querySelector(".visually-hidden")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      // Figures start with the largest, words with the first.
      const first = heading.classList.contains("num") ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      const order = heading.getAttribute("aria-sort") === first ? second : first;
      for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", order);
      sort(body, column, order === "ascending" ? 1 : -1);
    });
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
