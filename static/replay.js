// A replay that is under way: how far it is, and at its end what was measured, put into the page as they come.
import "./refresh.js";

document.addEventListener("refreshed", ({ detail: place }) => {
  if (place.querySelector("[data-figure]")) document.dispatchEvent(new Event("figureschange"));
});
