"""What a model is for: as its owner said, as its architecture tells, or else as the dataset's targets imply.

The shape of the answers alone says nothing: two axes are classes, or an embedding, or several amounts.
"""

from __future__ import annotations

import math

from webapp.engine.architectures import classes
from webapp.engine.errors import TaskUnfit
from webapp.engine.facts import ArchitectureSpec, CheckpointFacts, DatasetFacts, Task

TITLES: dict[Task, str] = {
    "classification": "Classification",
    "text-classification": "Text classification",
    "token-classification": "Token classification",
    "masked-lm": "Masked language model",
    "causal-lm": "Language model",
    "embedding": "Embedding",
    "regression": "Regression",
    "segmentation": "Segmentation",
    "distance": "Distance only",
}
JUDGED_BY: dict[Task, str] = {
    "classification": "accuracy; without labels by KL divergence and agreement",
    "text-classification": "accuracy; without labels by KL divergence and agreement",
    "token-classification": "KL divergence and agreement",
    "masked-lm": "KL divergence and agreement",
    "causal-lm": "perplexity",
    "embedding": "the cosine to the original's vectors",
    "regression": "MSE, MAE and R²; without targets by the relative error to the original",
    "segmentation": "mean IoU; without masks by KL divergence and agreement",
    "distance": "the relative error to the original, over all outputs",
}
USES: tuple[Task, ...] = ("classification", "embedding", "regression", "segmentation", "causal-lm", "distance")
ALIASES: dict[str, Task] = {"language-model": "causal-lm", "distance-only": "distance"}
OF_TOKENS: tuple[Task, ...] = ("causal-lm", "masked-lm", "token-classification")  # as recognised, or not at all
CLASSIFYING: tuple[Task, ...] = ("classification", "text-classification")
OF_TARGETS: dict[str, Task] = {"numbers": "regression", "masks": "segmentation"}


def named(asked: str, spec: ArchitectureSpec | None) -> Task:
    """The task that a person's word means for this model. Raises TaskUnfit for a word that is none."""
    word = "-".join(asked.strip().lower().replace("_", " ").split())
    found = ALIASES.get(word) or next((task for task in TITLES if task == word), None)
    if found is None:
        raise TaskUnfit(f"There is no task {asked[:40]!r}; there are {', '.join(USES)}.", "task")
    if found in CLASSIFYING and spec is not None:
        return "text-classification" if _reads_text(spec) else "classification"
    return found


def with_task(facts: CheckpointFacts, asked: str | None) -> CheckpointFacts:
    """The facts of a checkpoint whose owner says what it is for; None: as its architecture tells.

    Raises TaskUnfit where it cannot be.
    """
    spec = facts.architecture
    if asked is None:
        own = spec and spec.model_copy(update={"task": spec.told_task, "set_by_owner": False, "recognised": None})
        return facts.model_copy(update={"architecture": own})
    task = named(asked, spec)
    if spec is None:
        because = (facts.weights_only_because or "its architecture is not known").rstrip(".")
        raise TaskUnfit(f"This checkpoint is weights only ({because}), so nothing can be asked of it.", "task")
    if (reason := why_not(spec, task)) is not None:
        raise TaskUnfit(f"{spec.title} cannot be used as {_article(task)}: {reason}.", "task")
    told = {"task": task, "set_by_owner": True, "recognised": spec.told_task}
    return facts.model_copy(update={"architecture": spec.model_copy(update=told)})


def possible(spec: ArchitectureSpec) -> list[tuple[Task, str, str | None]]:
    """(task, title, why it cannot be or None) of all that an owner may choose from."""
    kind: Task = "text-classification" if _reads_text(spec) else "classification"
    offered: list[Task] = [kind, *USES[1:]]
    told = spec.told_task
    offered += [told] if told is not None and told not in offered else []
    return [(task, TITLES[task], why_not(spec, task)) for task in offered]


def why_not(spec: ArchitectureSpec, task: Task) -> str | None:
    """Why a model cannot be used for a task, as the end of a sentence; None where it can."""
    if task == (spec.told_task) or task == "distance":
        return None
    shape = answer_shape(spec)
    told = f"it answers with {'one number' if shape in ((), (1,)) else list(shape or ())} for each sample"
    if task in OF_TOKENS:
        if shape is not None and (len(shape) != 2 or shape[1] != spec.inputs.get("vocab")):
            return f"a language model scores every token of its vocabulary at each place, and {told}"
        return (
            "its tokens' scores look ahead, so it does not foretell the next token" if shape else "it has no such head"
        )
    if shape is None and spec.family == "transformers":
        bare = spec.title.endswith("Model") and "LMHead" not in spec.title
        return (
            None
            if {"embedding": bare, "regression": spec.told_task not in OF_TOKENS}.get(task)
            else "its architecture has no such head"
        )
    if shape is None:
        return None
    if task in CLASSIFYING and not (len(_squeezed(shape)) == 1 and shape[0] > 1):
        return f"a classification needs one score for each of two classes or more, and {told}"
    if task == "embedding" and len(_squeezed(shape)) != 1 and not ("vocab" in spec.inputs and len(shape) == 2):
        return f"an embedding is one vector, and {told}"
    if task == "segmentation" and len(shape) < 2:
        return f"a segmentation scores the classes at each place, and {told}"
    return None


def answer_shape(spec: ArchitectureSpec) -> tuple[int, ...] | None:
    """What the model answers to one sample; None where that is not known before it runs."""
    if spec.outputs:
        return spec.outputs[0]
    told = spec.told_task
    if (
        told in (*CLASSIFYING, "regression")
        and (known := classes(spec.model_copy(update={"task": "classification"}))) is not None
    ):
        return (known,)
    if spec.family != "transformers" and spec.config.get("classes") is not None:
        return (int(spec.config["classes"]),)
    return None


def resolved(spec: ArchitectureSpec, *data: DatasetFacts | None) -> Task | None:
    """The task with which a run on these datasets is measured; None without any, where none is told."""
    given = [facts for facts in data if facts is not None]
    if spec.task is not None or not given:
        return spec.task
    first = next((facts for facts in given if facts.targets or facts.labels is not None), None)
    if first is None:
        return "distance"
    if (implied := OF_TARGETS.get(first.targets or "")) is not None:
        return "regression" if first.target_shape == answer_shape(spec) else implied
    if answer_shape(spec) is not None and _squeezed(answer_shape(spec) or ()) == ():
        return "regression" if all(map(is_number, first.labels or ())) else "distance"
    return "distance" if why_not(spec, "classification") else "classification"


def for_task(spec: ArchitectureSpec, task: Task | None) -> ArchitectureSpec:
    """The spec as a run on this task sees it."""
    return spec if task is None or task == spec.task else spec.model_copy(update={"task": task})


def is_number(label: str) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _reads_text(spec: ArchitectureSpec) -> bool:
    return spec.family == "transformers" and "vocab" in spec.inputs


def _article(task: Task) -> str:
    title = TITLES[task].lower()
    return "a distance only" if task == "distance" else f"an {title}" if title[0] in "aeiou" else f"a {title}"
