"""What a technique declares of its settings, as pages show it, and the form that starts a run.

The pydantic model is the authority: bounds, titles and defaults are read from it, and it alone checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import annotated_types
from flask_wtf import FlaskForm
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from wtforms import (
    HiddenField,
    IntegerField,
    SelectField,
    SelectMultipleField,
    StringField,
)
from wtforms.validators import InputRequired, Length, NumberRange, Optional
from wtforms.widgets import CheckboxInput, NumberInput


@dataclass(frozen=True)
class SettingRow:
    """One setting as the form and the documentation show it. `low` and `high` are the values at the ends."""

    name: str
    title: str
    help: str
    kind: Literal["float", "int", "bool", "choice", "text"]
    default: Any
    unit: str
    widget: str
    step: float | int | None
    low: float | int | None
    high: float | int | None
    bounds: str  # "0 to 0.99", "above 0, below 1", ""
    choices: tuple[Any, ...]
    show_when: dict[str, Any]
    per_layer: bool

    @property
    def value_kind(self) -> str:
        """What the page's JavaScript makes of what is chosen or typed."""
        return self.kind if self.kind != "choice" else "int" if isinstance(self.choices[0], int) else "text"

    @property
    def slider(self) -> bool:
        return self.widget == "slider" and self.low is not None and self.high is not None


def setting_rows(settings: type[BaseModel]) -> list[SettingRow]:
    """In the order in which they are declared."""
    return [setting_row(name, field) for name, field in settings.model_fields.items()]


def setting_row(name: str, field: FieldInfo) -> SettingRow:
    extra: dict[str, Any] = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    literal = get_origin(field.annotation) is Literal
    kinds: dict[Any, Any] = {float: "float", int: "int", bool: "bool"}
    kind = "choice" if literal else kinds.get(field.annotation, "text")
    step = extra.get("step") or (1 if kind == "int" else 0.01 if kind == "float" else None)
    low, high, words = None, None, []
    for bound in field.metadata:
        match bound:
            case annotated_types.Ge(ge=value):
                low = value
                words.append(f"from {value:g}")
            case annotated_types.Gt(gt=value):
                low = value + step
                words.append(f"above {value:g}")
            case annotated_types.Le(le=value):
                high = value
                words.append(f"up to {value:g}")
            case annotated_types.Lt(lt=value):
                high = value - step
                words.append(f"below {value:g}")
    return SettingRow(
        name=name,
        title=field.title or name,
        help=field.description or "",
        kind=kind,
        default=field.get_default(call_default_factory=True),
        unit=str(extra.get("unit", "")),
        widget=str(extra.get("widget", "number")),
        step=step,
        low=low,
        high=high,
        bounds=", ".join(words),
        choices=get_args(field.annotation) if literal else (),
        show_when=dict(extra.get("show_when") or {}),
        per_layer=bool(extra.get("per_layer")),
    )


class RunForm(FlaskForm):
    """Starts a run. The recipe is JSON that recipe.js keeps up to date; the engine checks it."""

    checkpoint = SelectField("Checkpoint", validators=[InputRequired("Choose a checkpoint.")])
    name = StringField(
        "Name of the run",
        validators=[Length(max=200, message="A name has at most 200 characters.")],
        render_kw={"maxlength": 200, "autocomplete": "off", "placeholder": "Named after its recipe"},
    )
    dataset = SelectField("Dataset", description="Evaluates the original and the result on the same samples.")
    training_dataset = SelectField(
        "Calibration and training dataset",
        description="Takes the place of the dataset's own training split. Samples that both hold are left out.",
    )
    teacher_checkpoint = SelectField(
        "Teacher of a distillation",
        default="",
        description="Another checkpoint with the same classes or vocabulary, more accurate than the original.",
    )
    exports = SelectMultipleField(
        "Also write",
        description="Each is loaded again in its own runtime, compared, and timed there beside the original.",
        option_widget=CheckboxInput(),
    )
    seed = IntegerField(
        "Seed",
        default=0,
        validators=[
            Optional(),
            NumberRange(0, 2**31 - 1, message="The seed is a whole number from 0 to 2,147,483,647."),
        ],
        description="The same seed, recipe and data give the same bytes.",
        widget=NumberInput(),
        render_kw={"min": 0, "max": 2**31 - 1, "step": 1},
    )
    recipe = HiddenField("Recipe")
    preprocessing = HiddenField("Preprocessing")
    forked_from = HiddenField()
    continued_from = HiddenField()

    def problems(self) -> dict[str, list[str]]:
        return {name: list(errors) for name, errors in self.errors.items() if name}
