"""A checkpoint's tokenizer asked for the tokens of a text."""

from __future__ import annotations

from typing import Any

from webapp.engine.errors import DatasetUnfit


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
