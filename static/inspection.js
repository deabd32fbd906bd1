// Waits until an upload has been inspected, then shows what was found.
const section = document.querySelector("[data-inspection]");

async function look() {
  if (document.hidden) return;
  try {
    const answer = await fetch(section.dataset.inspection, { headers: { Accept: "application/json" } });
    const { state, progress, message } = await answer.json();
    if (state !== "inspecting") location.reload();
    if (progress) section.querySelector("[data-progress]").value = progress;
    section.querySelector("[data-message]").textContent = message ?? "";
  } catch {
    // Pare does not answer for the moment; the next look may find it again
  }
}
setInterval(look, 1000);
document.addEventListener("visibilitychange", look);
