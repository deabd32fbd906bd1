"""What each label of a dataset is to a model: a class, by name where both have names, else by number; or an amount."""

from __future__ import annotations

from collections.abc import Iterator

from webapp.engine.architectures import class_names
from webapp.engine.errors import DatasetUnfit
from webapp.engine.facts import ArchitectureSpec, DatasetFacts

from .tasks import is_number

TOLD = 5  # names in a sentence


def class_numbers(spec: ArchitectureSpec, facts: DatasetFacts) -> tuple[int, ...] | tuple[float, ...] | None:
    """The model's number of each of the dataset's labels; None where they are numbered alike. Of a regression: amounts.

    Small and capital letters are one, `_` is a space, and of "tench, Tinca tinca" either part will do. Raises
    DatasetUnfit for a label that the model does not have.
    """
    if spec.task == "regression" and facts.labels is not None and facts.targets != "masks":
        return _amounts(facts.labels)
    names = class_names(spec) if spec.task not in ("embedding", "distance") else None
    if names is None or facts.labels is None or all(label.isdigit() for label in facts.labels):
        return None
    known: dict[str, int | None] = {}
    for number, name in enumerate(names):
        for alias in _aliases(name):
            known[alias] = None if known.get(alias, number) != number else number  # two classes share it: nobody's
    known |= {_plain(name): number for number, name in enumerate(names)}
    numbers = [known.get(_plain(label)) for label in facts.labels]
    if missing := [label for label, number in zip(facts.labels, numbers, strict=True) if number is None]:
        raise DatasetUnfit(
            f"The dataset has the {'label' if len(missing) == 1 else 'labels'} {_listed(missing)}; {spec.title} knows "
            f"{_listed(names)}. {_way_out(facts)}",
            "dataset_id",
        )
    found = tuple(number for number in numbers if number is not None)
    if len(set(found)) < len(found):
        raise DatasetUnfit(
            f"Several labels of the dataset are the same class of {spec.title}. {_way_out(facts)}", "dataset_id"
        )
    return None if found == tuple(range(len(found))) else found


def _amounts(labels: tuple[str, ...]) -> tuple[float, ...]:
    if no_numbers := [label for label in labels if not is_number(label)]:
        raise DatasetUnfit(
            f"The dataset has the {'label' if len(no_numbers) == 1 else 'labels'} {_listed(no_numbers)}; a regression "
            "is evaluated on numbers. Set the checkpoint's task to classification, or upload a dataset of numbers.",
            "dataset_id",
        )
    return tuple(float(label) for label in labels)


def _way_out(facts: DatasetFacts) -> str:
    if facts.kind == "images":
        return "Name each folder after its class, or after the number of its class."
    return "Write the model's names into the file, or the numbers of its classes."


def _aliases(name: str) -> Iterator[str]:
    yield _plain(name)
    yield from (_plain(part) for part in name.split(","))


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:TOLD]) + (f" and {len(names) - TOLD} more" if len(names) > TOLD else "")
