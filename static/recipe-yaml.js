// The recipe as text: shown, copied, downloaded, and pasted back.

export function yamlTab(post, address, replace) {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const text = document.getElementById("yaml");
  const error = document.getElementById("yaml-error");
  let shown = "";

  function select(tab, focus = false) {
    for (const other of tabs) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", String(chosen));
      other.tabIndex = chosen ? 0 : -1;
      document.getElementById(other.getAttribute("aria-controls")).hidden = !chosen;
    }
    if (focus) tab.focus();
  }
  for (const tab of tabs) {
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) select(tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length], true);
    });
  }

  function say(message) {
    error.textContent = message;
    error.hidden = !message;
    text.classList.toggle("is-invalid", Boolean(message));
  }

  document.getElementById("yaml-use").addEventListener("click", async () => {
    let answer;
    try {
      answer = await post(address, { text: text.value });
    } catch {
      return say("Pare does not answer. Check that it is running, and try again.");
    }
    if (answer.error) return say(answer.error.message);
    const problem = replace(answer.recipe);
    say(problem);
    if (!problem) select(tabs[0], true);
  });

  document.getElementById("yaml-download").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text.value], { type: "application/yaml" }));
    link.download = "recipe.yaml";
    link.click();
    URL.revokeObjectURL(link.href);
  });

  return {
    // Text that somebody is writing is not overwritten by the answer to an earlier change.
    show(yaml) {
      if (text.value === shown || document.getElementById("panel-yaml").hidden) {
        text.value = yaml;
        say("");
      }
      shown = yaml;
    },
  };
}
