"""A form that is refused comes back on its page, with what was typed and the sentence at the field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from flask import request
from flask.typing import ResponseReturnValue

from webapp.engine.errors import PareError

from .extensions import db

Row = TypeVar("Row")


@dataclass(frozen=True)
class RefusedField:
    """`name` is the field's, or the form's where it has none to type into."""

    name: str
    message: str

    def typed(self, name: str, otherwise: str = "") -> str:
        """What this field's form had."""
        return request.form.get(name, otherwise) if name == self.name else otherwise


def back_with(
    error: PareError, page: Callable[[Row, RefusedField], str], row: Row, field: str | None = None
) -> ResponseReturnValue:
    """The page of the row with the error at the field, or at the one that it names itself, and with its status.

    Raises the error again where it is about the row itself, which may be gone.
    """
    name = field or error.field
    if name is None or (error.status == 404 and error.field is None):
        raise error
    db.session.rollback()
    return page(row, RefusedField(name, error.message)), error.status
