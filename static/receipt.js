document.querySelector("[data-print]")?.addEventListener("click", () => print());
// What is folded away is printed too.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => (each.open = true)));
