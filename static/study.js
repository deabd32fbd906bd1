// A study that is under way: the page's parts are refreshed as any others; the charts with them, and all of it at the end.
import "./refresh.js";

document.addEventListener("looked", ({ detail: page }) => {
  if (!page.querySelector('#study-state [data-state="queued"], #study-state [data-state="running"]')) return location.reload();
  let changed = false;
  for (const figure of document.querySelectorAll('script[id^="figure-"]')) {
    const fresh = page.getElementById(figure.id);
    if (!fresh || fresh.textContent === figure.textContent) continue;
    figure.textContent = fresh.textContent;
    changed = true;
  }
  if (changed) document.dispatchEvent(new Event("figureschange"));
});
