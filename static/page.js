// What every page does: the menu on small screens, times in the reader's own zone, and buttons that copy.

const menu = document.querySelector("[data-menu]");
menu?.addEventListener("click", () => {
  const open = menu.getAttribute("aria-expanded") !== "true";
  menu.setAttribute("aria-expanded", String(open));
  document.getElementById("menu").classList.toggle("open", open);
});

const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
function times() {
  for (const time of document.querySelectorAll("time[datetime]")) time.title = format.format(new Date(time.dateTime));
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = document.querySelector(button.dataset.copy);
  await navigator.clipboard.writeText(source.value ?? source.textContent);
  const label = button.querySelector("[data-label]") ?? button;
  const before = label.textContent;
  label.textContent = "Copied";
  setTimeout(() => (label.textContent = before), 1500);
});

// Buttons that cannot be undone ask first.
document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

// Ticked rows, such as the runs to compare: how many there are.
function count() {
  for (const form of document.querySelectorAll("[data-choose]")) {
    const ticked = form.querySelectorAll("input[name=run]:checked").length;
    const chosen = form.querySelector("[data-chosen]");
    form.querySelector("[data-needs-chosen]").disabled = ticked === 0;
    chosen.dataset.chosen ||= chosen.textContent;
    chosen.textContent = ticked ? `${ticked} chosen` : chosen.dataset.chosen;
  }
}
document.addEventListener("change", count);

// A table that goes on beyond an edge fades towards it.
const edges = new ResizeObserver((entries) => entries.forEach(({ target }) => target.isConnected && fade(target.closest(".table-scroll"))));
function fade(place) {
  const { scrollLeft, scrollTop, scrollWidth, scrollHeight, clientWidth, clientHeight } = place;
  place.classList.toggle("more-left", scrollLeft > 1);
  place.classList.toggle("more-right", scrollLeft + clientWidth < scrollWidth - 1);
  place.classList.toggle("more-below", scrollTop + clientHeight < scrollHeight - 1);
}
document.addEventListener("scroll", ({ target }) => target.classList?.contains("table-scroll") && fade(target), { capture: true, passive: true });

function seen() {
  times();
  count();
  for (const place of document.querySelectorAll(".table-scroll")) {
    edges.observe(place);
    if (place.firstElementChild) edges.observe(place.firstElementChild);
    fade(place);
  }
}
seen();
document.addEventListener("refreshed", seen);

// The tour's panel is read first also where the page has loaded itself again.
if (location.hash === "#tour") document.getElementById("tour")?.focus();
