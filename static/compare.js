// Choosing another metric or axis shows it at once; without JavaScript there is a button.
for (const button of document.querySelectorAll("[data-submit-button]")) button.hidden = true;
for (const select of document.querySelectorAll("[data-submits]")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}
