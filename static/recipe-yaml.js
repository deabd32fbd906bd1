// The recipe as text: typed, with a fault shown at its line, copied and downloaded.

export function yamlTab(typed) {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const text = document.getElementById("yaml");
  const error = document.getElementById("yaml-error");
  const numbers = document.getElementById("yaml-lines");
  const band = document.getElementById("yaml-fault");
  let faulty = 0; // the line, from 1; 0: none

  function select(tab, focus = false) {
    for (const other of tabs) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", String(chosen));
      other.tabIndex = chosen ? 0 : -1;
      document.getElementById(other.getAttribute("aria-controls")).hidden = !chosen;
    }
    if (focus) tab.focus();
    draw();
  }
  for (const tab of tabs) {
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) select(tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length], true);
    });
  }

  // The numbers of the lines and the mark of a fault keep to the text as it scrolls.
  function draw() {
    const count = text.value.split("\n").length;
    if (numbers.childElementCount !== count) {
      numbers.replaceChildren(...Array.from({ length: count }, (_, index) => Object.assign(document.createElement("span"), { textContent: index + 1 })));
    }
    for (const [index, number] of [...numbers.children].entries()) number.className = index + 1 === faulty ? "faulty" : "";
    numbers.scrollTop = text.scrollTop;
    band.hidden = !faulty;
    const { lineHeight, paddingTop } = getComputedStyle(text);
    band.style.top = `${parseFloat(paddingTop) + (faulty - 1) * parseFloat(lineHeight) - text.scrollTop}px`;
  }
  text.addEventListener("scroll", draw);
  text.addEventListener("input", () => {
    draw();
    typed();
  });

  document.getElementById("yaml-download").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text.value], { type: "application/yaml" }));
    link.download = "recipe.yaml";
    link.click();
    URL.revokeObjectURL(link.href);
  });

  return {
    get value() {
      return text.value;
    },
    get open() {
      return !document.getElementById("panel-yaml").hidden;
    },
    show(yaml) {
      text.value = yaml;
      draw();
    },
    fault(message) {
      const line = Number(/\bline (\d+)\b/.exec(message)?.[1] ?? 1);
      faulty = message ? Math.min(line, text.value.split("\n").length) : 0;
      band.firstElementChild.textContent = message;
      error.textContent = message;
      error.hidden = !message;
      text.classList.toggle("is-invalid", Boolean(message));
      text.setAttribute("aria-invalid", String(Boolean(message)));
      draw();
    },
    select: (open, focus = false) => select(tabs[open ? 1 : 0], focus),
  };
}
