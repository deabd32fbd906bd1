// A run or study whose end the browser says, once somebody has asked for that: also while another tab is in front. A page
// that is seen loads itself again at the end by its own script; one that is hidden is looked at from here.

const place = document.querySelector("[data-notify]");
const button = place.querySelector("button"); // none where it has ended
const ENDED = { succeeded: "has succeeded", failed: "has failed", cancelled: "was cancelled" };
const HIDDEN_MS = 5000;
const key = `notify ${place.dataset.notify}`; // in this tab alone
const title = document.title;

const asked = () => sessionStorage.getItem(key) !== null;
const allowed = () => "Notification" in window && Notification.permission === "granted";

function say(sentence) {
  place.querySelector("[data-said]").textContent = sentence;
}

function show() {
  button.setAttribute("aria-pressed", String(asked()));
  say(asked() ? "The browser will say when it ends. Keep this page open; another tab may be in front." : "");
}

function why() {
  if (!window.isSecureContext) return "Browsers show notifications only of pages at https or localhost, and this is neither.";
  if (!("Notification" in window)) return "This browser shows no notifications.";
  return "This browser does not allow notifications of this page. Its settings for this site can.";
}

function tell(state, result) {
  if (!asked() || !(state in ENDED)) return;
  sessionStorage.removeItem(key); // before it is told, so that it is told once
  document.title = `${state[0].toUpperCase()}${state.slice(1)}: ${title}`;
  if (!allowed()) return;
  try {
    const notification = new Notification(`${place.dataset.name} ${ENDED[state]}`, { body: result, tag: key });
    notification.addEventListener("click", () => { window.focus(); notification.close(); });
  } catch {
    // some browsers show none of a page; the title says it
  }
}

async function look() {
  if (!document.hidden) document.title = title;
  if (!document.hidden || !asked()) return;
  try {
    const answer = await fetch(place.dataset.notify, { headers: { Accept: "application/json" } });
    if (!answer.ok) return;
    const { state, progress, error, conclusion, receipt } = await answer.json();
    if (document.hidden) document.title = `${Math.floor(progress * 100)} % · ${title}`;
    tell(state, error?.message ?? conclusion?.sentence ?? receipt?.verdict?.sentence ?? "");
  } catch {
    // Pare does not answer right now; the next look tries again
  }
}

button?.addEventListener("click", async () => {
  if (asked()) sessionStorage.removeItem(key);
  else if (window.isSecureContext && "Notification" in window && (await Notification.requestPermission()) === "granted") sessionStorage.setItem(key, "1");
  else return say(why());
  show();
});

if (button) {
  button.hidden = false;
  show();
  setInterval(look, HIDDEN_MS);
  document.addEventListener("visibilitychange", look);
} else tell(place.dataset.state, place.dataset.result);
