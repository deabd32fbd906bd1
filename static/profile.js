// A profile that is being made: its progress, asked for every second while the page is seen.

const live = document.querySelector("[data-profile]");
const at = (name) => live.querySelector(`[data-${name}]`);

async function look() {
  if (document.hidden) return;
  let profile;
  try {
    const answer = await fetch(live.dataset.profile, { headers: { Accept: "application/json" } });
    if (!answer.ok) return;
    profile = await answer.json();
  } catch {
    return; // Pare does not answer for the moment; the next look may find it again
  }
  if (["succeeded", "failed", "cancelled"].includes(profile.state)) return location.reload();
  if (profile.message) at("message").textContent = profile.message;
  at("progress").value = profile.progress;
  at("percent").textContent = `${Math.floor(profile.progress * 100)} %`;
}

look();
setInterval(look, 1000);
document.addEventListener("visibilitychange", look);
