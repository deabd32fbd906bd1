"""Multiple-choice questions for language models: a context, its continuations, and which of them is right.

A choice is judged by the log-likelihood that the model gives its tokens after the context, as lm-evaluation-harness
does (https://github.com/EleutherAI/lm-evaluation-harness, `acc` and `acc_norm`): a space stands between the two, spaces
at the end of the context count with the choice, the choice's tokens are those of the whole text after the context's,
and what is too long loses its beginning. No token is put in front; an empty context is the tokenizer's first token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from webapp.engine.errors import DatasetUnfit, quoted

LONGEST = 2048  # tokens of a context with a choice, or what the model can take


def tokenized(tokenizer: Any, text: str | list[str], **how: Any) -> Any:
    """What the tokenizer answers to `text`, with the options `how`.

    Raises DatasetUnfit where it has no token for a character and none that stands for unknown ones.
    """
    try:
        return tokenizer(text, **how)
    except Exception as error:
        if type(error) is not Exception:  # the tokenizers library raises nothing narrower
            raise
        raise DatasetUnfit(
            f"The model's tokenizer has no token for something in the text ({error}); choose a text that it can read."
        ) from error


@dataclass(frozen=True)
class Question:
    """`context` is what the model reads; each of `choices` may follow it; `answer` is the right one's number."""

    context: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Questions:
    questions: Sequence[Question]

    def __len__(self) -> int:
        return len(self.questions)

    def hashes(self) -> Iterator[str]:
        for question in self.questions:
            yield hashlib.sha256(json.dumps([question.context.strip(), *question.choices]).encode()).hexdigest()

    def only(self, keep: list[bool]) -> Questions:
        return Questions([question for question, kept in zip(self.questions, keep, strict=True) if kept])

    def answered(self) -> str:
        """Every context with its right choice, as text to calibrate and train on; an empty line between them."""
        return "\n\n".join(question.context + " " + question.choices[question.answer] for question in self.questions)


def write_questions(samples: Questions, path: Path) -> None:
    with path.open("w", encoding="utf8", newline="") as file:
        for question in samples.questions:
            file.write(json.dumps(asdict(question)) + "\n")


def open_questions(path: Path) -> Questions:
    rows = (json.loads(line) for line in path.read_text(encoding="utf8").splitlines())
    return Questions([Question(row["context"], tuple(row["choices"]), row["answer"]) for row in rows])


def tokens_of(question: Question, tokenizer: Any, longest: int) -> list[tuple[list[int], int]]:
    """For each choice (the tokens of context and choice, how many of them are the choice's). Raises DatasetUnfit."""

    def encoded(text: str) -> list[int]:
        return list(tokenized(tokenizer, text, add_special_tokens=False, verbose=False)["input_ids"])

    context = question.context.rstrip()
    between = question.context[len(context) :] + " "
    before = encoded(context) if context else [_first(tokenizer)]
    found = []
    for choice in question.choices:
        whole = encoded(context + between + choice) if context else [*before, *encoded(between + choice)]
        length = len(whole) - len(before)
        if length < 1:
            raise DatasetUnfit(f"The choice {quoted(choice)} adds no token to its question; make it longer.")
        if length >= longest:
            raise DatasetUnfit(f"The choice {quoted(choice)} takes {length} tokens; the model takes {longest} in all.")
        found.append((whole[-longest:], length))
    return found


def _first(tokenizer: Any) -> int:
    """What a text without a beginning begins with."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        if token is not None:
            return int(token)
    raise DatasetUnfit("A question has an empty context, and the tokenizer has no token that a text begins with.")
