"""Rows of multiple-choice questions under the names that the known benchmarks give their columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from webapp.engine.data.questions import Question, Questions
from webapp.engine.errors import DatasetRefused, quoted

CONTEXT_NAMES = ("context", "ctx")  # read as it is
QUESTION_NAMES = ("question",)  # read as "Question: …\nAnswer:"
CHOICE_NAMES = ("choices", "endings", "options")
ANSWER_NAMES = ("answer", "answerkey", "label", "gold", "correct")
MOST_CHOICES = 64


def holds_questions(names: Iterable[str]) -> bool:
    """Whether columns of these names are questions with choices."""
    known = {name.strip().lower() for name in names}
    return bool(known & {*CONTEXT_NAMES, *QUESTION_NAMES}) and bool(known & set(CHOICE_NAMES))


def read_questions(rows: Iterable[tuple[str, Mapping[str, Any]]], filename: str, notes: list[str]) -> Questions:
    """Of (where, row) pairs. Raises DatasetRefused that says where."""
    found, asked = [], False
    for where, row in rows:
        known = {str(name).strip().lower(): value for name, value in row.items()}
        context = _first(known, CONTEXT_NAMES)
        question = _first(known, QUESTION_NAMES)
        if not isinstance(context, str) and not isinstance(question, str):
            raise DatasetRefused(f"{where} has no question or context that is text")
        choices, letters = _choices(_first(known, CHOICE_NAMES), where)
        parts = [context] if isinstance(context, str) else []
        if isinstance(question, str):
            asked = True
            parts.append(f"Question: {question}\nAnswer:")
        found.append(Question("\n".join(parts), choices, _answer(_first(known, ANSWER_NAMES), choices, letters, where)))
    if not found:
        raise DatasetRefused(f"{filename} holds no questions")
    if asked:
        notes.append('A question is put to the model as "Question: …", a line end and "Answer:".')
    return Questions(found)


def _first(known: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((known[name] for name in names if known.get(name) is not None), None)


def _choices(given: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(the choices, what they are called): of a list, or of ARC's {"text": [...], "label": ["A", ...]}."""
    letters: tuple[str, ...] = ()
    if isinstance(given, Mapping):
        letters = tuple(str(letter) for letter in given.get("label") or ())
        given = given.get("text")
    if not isinstance(given, list) or not all(isinstance(choice, str) and choice.strip() for choice in given):
        raise DatasetRefused(f"{where} has no choices: they are a list of texts, none of them empty")
    if not 2 <= len(given) <= MOST_CHOICES:
        raise DatasetRefused(f"{where} has {len(given)} choices; a question has 2 to {MOST_CHOICES}")
    if len(letters) != len(given):
        letters = tuple(chr(ord("A") + index) for index in range(min(len(given), 26)))
    return tuple(choice.strip() for choice in given), letters


def _answer(given: Any, choices: tuple[str, ...], letters: tuple[str, ...], where: str) -> int:
    """The number of the right choice, of its number from 0, its letter, or its text."""
    if isinstance(given, str):
        said = given.strip()
        if said in letters:
            return letters.index(said)
        if said.upper() in letters:
            return letters.index(said.upper())
        if said in choices:
            return choices.index(said)
        given = int(said) if said.isascii() and said.isdigit() and len(said) < 4 else given
    if type(given) is int and 0 <= given < len(choices):
        return given
    raise DatasetRefused(
        f"{where} has the answer {quoted(given)}; it must be the right choice's number, 0 to {len(choices) - 1}, "
        f"or its letter, A to {chr(ord('A') + min(len(choices), 26) - 1)}"
    )
