// What was filled in stays with the page's place in the history: a reload or Back finds it again, a new visit does not.

const KEPT = ["checkpoint", "dataset", "training_dataset", "teacher_checkpoint", "name", "seed", "preprocessing"];

export function keepDraft(form, recipe) {
  const fields = Object.fromEntries(KEPT.map((name) => [name, form.elements[name].value]));
  const exports = [...form.querySelectorAll("[data-export]:checked")].map((box) => box.value);
  history.replaceState({ ...history.state, draft: { fields, exports, recipe } }, "");
}

// Puts the draft into the form, and returns what it keeps of the recipe; null where there is none.
export function draftOf(form) {
  const draft = history.state?.draft;
  if (!draft) return null;
  for (const [name, value] of Object.entries(draft.fields)) {
    const field = form.elements[name];
    if (field.options && ![...field.options].some((option) => option.value === value)) continue; // it was deleted
    field.value = value;
  }
  for (const box of form.querySelectorAll("[data-export]")) box.checked = draft.exports.includes(box.value);
  return draft.recipe;
}
