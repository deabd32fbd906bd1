// The page of a deployment: what changes is asked for every second while the page is seen.

const row = document.querySelector("[data-deployment]");
const TRAFFIC_MS = 5000; // between two looks at the charts

function bytes(count) {
  if (count === null) return "–";
  return count >= 1e9 ? `${(count / 1e9).toFixed(2)} GB` : `${(count / 1e6).toFixed(1)} MB`;
}

function since(moment) {
  if (!moment) return "–";
  const seconds = Math.max(0, (Date.now() - new Date(moment)) / 1000);
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

function put(name, text) {
  row.querySelector(`[data-${name}]`).textContent = text;
}

// What is known once the model was ready: its signature, and requests that follow it. The token, which the server shows
// once, stays in them.
async function fill() {
  const page = new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
  const token = document.getElementById("token")?.value;
  document.getElementById("signature").replaceWith(page.getElementById("signature"));
  for (const text of page.querySelectorAll("#snippets pre")) {
    if (token) text.textContent = text.textContent.replaceAll('os.environ["PARE_TOKEN"]', JSON.stringify(token)).replaceAll("$PARE_TOKEN", token);
  }
  document.getElementById("snippets").replaceWith(page.getElementById("snippets"));
}

// The charts and the table of requests, from a fresh page; charts that are there already are drawn anew in their places.
function showTraffic(page) {
  const place = document.getElementById("traffic");
  const fresh = page.getElementById("traffic");
  const names = (part) => [...part.querySelectorAll("[data-figure]")].map((chart) => chart.dataset.figure).join();
  if (!names(place) || names(place) !== names(fresh)) place.replaceWith(fresh);
  else {
    for (const figure of place.querySelectorAll('script[id^="figure-"]')) figure.textContent = fresh.querySelector(`#${figure.id}`).textContent;
    place.querySelector("dl").replaceWith(fresh.querySelector("dl"));
    place.querySelector("#traffic-more").replaceChildren(...fresh.querySelector("#traffic-more").childNodes);
  }
  document.dispatchEvent(new Event("figureschange"));
  document.dispatchEvent(new CustomEvent("refreshed", { detail: place }));
}

let told = Number(row.dataset.drawnRequests); // requests, as the charts have them
let due = 0;
async function lookAtTraffic(requests) {
  if (requests === told || Date.now() < due) return;
  due = Date.now() + TRAFFIC_MS;
  const page = await fetch(`${location.pathname}?traffic=${document.getElementById("traffic").dataset.traffic}`);
  if (!page.ok) return;
  showTraffic(new DOMParser().parseFromString(await page.text(), "text/html"));
  told = requests;
}

async function show(now) {
  if (row.dataset.state !== now.state) {
    row.querySelector("[data-badge]").replaceChildren(document.getElementById(`state-${now.state}`).content.firstElementChild.cloneNode(true));
    if (now.state === "ready") await fill();
    row.dataset.state = now.state;
  }
  put("requests", now.requests.toLocaleString("en"));
  put("memory", bytes(now.memory_bytes));
  put("since", since(now.ready_at));
  put("deaths", now.deaths.toLocaleString("en"));
  await lookAtTraffic(now.requests);
  row.querySelector("[data-reason]").hidden = !now.reason;
  row.querySelector("[data-reason] p").textContent = now.reason ?? "";
}

async function look() {
  if (!document.hidden) {
    try {
      const answer = await fetch(row.dataset.address, { headers: { Accept: "application/json" } });
      if (answer.ok) await show(await answer.json());
    } catch {
      // Pare does not answer right now; the next look tries again
    }
  }
  setTimeout(look, 1000);
}
look();
