// The list of deployments and the page of one: what changes is asked for every second while the page is seen.

const rows = [...document.querySelectorAll("[data-deployment]")];
const address = document.querySelector("[data-deployments]").dataset.deployments;

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

function put(row, name, text) {
  const place = row.querySelector(`[data-${name}]`);
  if (place) place.textContent = text;
}

function show(row, now) {
  if (row.dataset.state !== now.state) {
    const first = row.dataset.state === "starting" && now.state === "ready" && row.querySelector("[data-reason]");
    row.dataset.state = now.state;
    const badge = document.getElementById(`state-${now.state}`).content.firstElementChild.cloneNode(true);
    row.querySelector("[data-badge]").replaceChildren(badge);
    // the signature is known now; a token that is shown once must not be lost by loading the page again
    if (first && !document.getElementById("token")) return location.reload();
  }
  put(row, "requests", now.requests.toLocaleString("en"));
  put(row, "memory", bytes(now.memory_bytes));
  put(row, "since", since(now.ready_at));
  put(row, "deaths", now.deaths.toLocaleString("en"));
  const reason = row.querySelector("[data-reason]");
  if (reason) {
    reason.hidden = !now.reason;
    reason.querySelector("p").textContent = now.reason ?? "";
  }
}

async function look() {
  if (!document.hidden) {
    try {
      const answer = await fetch(address, { headers: { Accept: "application/json" } });
      const found = new Map((await answer.json()).items.map((item) => [item.name, item]));
      for (const row of rows) if (found.has(row.dataset.deployment)) show(row, found.get(row.dataset.deployment));
    } catch {
      // Pare does not answer right now; the next look tries again
    }
  }
  setTimeout(look, 1000);
}
look();
