// Parts of a page that change by themselves are asked for again while the page is seen, and put in place as they come.

const places = [...document.querySelectorAll("[data-refresh]")];
const UNDER_WAY = ["queued", "running", "inspecting", "starting"].map((state) => `[data-state="${state}"]`).join();
const SOON_MS = 1500;
const LATER_MS = 5000;
const shown = new Map(); // each place's markup as it came last

// A form's token is another one at every answer, and nothing that is seen.
const markup = (place) => place.innerHTML.replaceAll(/ name="csrf_token" value="[^"]*"/g, "");
const nameOf = (element) => element.id || element.getAttribute("href") || (element.name && `${element.name}=${element.value}`);
const busy = (place) => place.matches(":has(input[type=search]:focus, select:focus)") || (getSelection().toString() && place.contains(getSelection().anchorNode));

function put(place, fresh) {
  const ticked = [...place.querySelectorAll("input[type=checkbox]:checked")].map((box) => box.value);
  const focused = place.contains(document.activeElement) ? nameOf(document.activeElement) : null;
  place.replaceChildren(...fresh.childNodes);
  for (const box of place.querySelectorAll("input[type=checkbox]")) box.checked = ticked.includes(box.value);
  if (focused) [...place.querySelectorAll("a, button, input")].find((element) => nameOf(element) === focused)?.focus();
  document.dispatchEvent(new CustomEvent("refreshed", { detail: place }));
}

let etag = ""; // of a page that can say that nothing has changed
async function look() {
  if (document.hidden) return;
  const answer = await fetch(location.href, { headers: { Accept: "text/html", "X-Refresh": "1", "If-None-Match": etag } });
  if (!answer.ok || answer.redirected) return; // 304 among them
  etag = answer.headers.get("ETag") ?? "";
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const place of places) {
    const fresh = page.getElementById(place.id);
    if (!fresh || busy(place) || shown.get(place) === markup(fresh)) continue;
    shown.set(place, markup(fresh));
    put(place, fresh);
  }
  document.dispatchEvent(new CustomEvent("looked", { detail: page }));
}

async function goOn() {
  try {
    await look();
  } catch {
    // Pare does not answer right now; the next look tries again
  }
  setTimeout(goOn, places.some((place) => place.querySelector(UNDER_WAY)) ? SOON_MS : LATER_MS);
}
setTimeout(goOn, SOON_MS);
document.addEventListener("visibilitychange", () => look().catch(() => {}));
