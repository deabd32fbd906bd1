document.querySelector("[data-print]")?.addEventListener("click", () => print());

// What is folded away is printed too, and always as on white paper.
const page = document.documentElement;
let theme = page.dataset.bsTheme;
addEventListener("beforeprint", () => {
  theme = page.dataset.bsTheme;
  page.dataset.bsTheme = "light";
  for (const each of document.querySelectorAll("details")) each.open = true;
});
addEventListener("afterprint", () => (page.dataset.bsTheme = theme));
