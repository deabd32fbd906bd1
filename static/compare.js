// Choosing another axis or colour shows it at once; without JavaScript there is a button. A zoom is kept in the address,
// in what controls and headings send, until other axes are chosen.
for (const button of document.querySelectorAll("[data-submit-button]")) button.hidden = true;
for (const select of document.querySelectorAll("[data-submits]")) {
  select.addEventListener("change", () => {
    const zoom = select.form.querySelector("[data-zoom]");
    if (zoom && "movesAxes" in select.dataset) zoom.value = "";
    select.form.requestSubmit();
  });
}
addEventListener("submit", ({ target }) => {
  for (const zoom of target.querySelectorAll("[data-zoom]")) zoom.disabled = !zoom.value;
});

function withZoom(address, zoom) {
  const url = new URL(address, location.href);
  url.searchParams.delete("zoom");
  if (zoom) url.searchParams.set("zoom", zoom);
  return url;
}

document.addEventListener("zoomed", ({ target, detail: zoom }) => {
  if (target.dataset.figure !== "figure-tradeoff") return;
  history.replaceState(null, "", withZoom(location.href, zoom));
  for (const field of document.querySelectorAll("[data-zoom]")) field.value = zoom;
  for (const link of document.querySelectorAll("[data-keeps-zoom]")) link.href = withZoom(link.href, zoom);
});
