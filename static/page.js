// What every page does: the menu on small screens, times in the reader's own zone, and buttons that copy.

const menu = document.querySelector("[data-menu]");
menu?.addEventListener("click", () => {
  const open = menu.getAttribute("aria-expanded") !== "true";
  menu.setAttribute("aria-expanded", String(open));
  document.getElementById("menu").classList.toggle("open", open);
});

const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
for (const time of document.querySelectorAll("time[datetime]")) time.title = format.format(new Date(time.dateTime));

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

// Filters apply as soon as they are chosen; without scripts there is a button.
for (const form of document.querySelectorAll("[data-autosubmit]")) {
  form.querySelector("button[type=submit]").hidden = true;
  form.addEventListener("change", () => form.submit());
}

// Ticked rows, such as the runs to compare: how many there are.
for (const form of document.querySelectorAll("[data-choose]")) {
  const button = form.querySelector("button[type=submit]");
  const chosen = form.querySelector("[data-chosen]");
  const before = chosen.textContent;
  const count = () => {
    const ticked = form.querySelectorAll("input[name=run]:checked").length;
    button.disabled = ticked === 0;
    chosen.textContent = ticked ? `${ticked} chosen` : before;
  };
  form.addEventListener("change", count);
  count();
}
