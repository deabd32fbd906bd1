"""Forms are made from what a technique declares, and from nothing else."""

from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader
from pydantic import BaseModel, Field

from tests.web.views.page import Page
from webapp.engine.techniques import techniques
from webapp.web.forms import setting_rows


class Settings(BaseModel):
    ratio: float = Field(
        0.5,
        title="Ratio",
        description="What is kept.",
        gt=0.0,
        lt=1.0,
        json_schema_extra={"widget": "slider", "step": 0.01},
    )
    rank: int = Field(8, title="Rank", ge=1, le=64, json_schema_extra={"show_when": {"by": "rank"}})
    bits: Literal[8, 4] = Field(8, title="Bits", json_schema_extra={"unit": "bits"})
    by: Literal["ratio", "rank"] = Field("ratio", title="By")
    symmetric: bool = Field(True, title="Symmetric")


def test_each_kind_of_setting_has_its_field():
    templates = Environment(loader=FileSystemLoader(Path(__file__).parents[2] / "templates"), autoescape=True)
    field = templates.get_template("run_builder/card.html").module.setting_input
    ratio, rank, bits, by, symmetric = setting_rows(Settings)
    ((number,), (whole,)) = (Page(field(row, "id")).of("input") for row in (ratio, rank))
    assert (number["type"], number["step"], number["value"], number["data-kind"]) == ("number", "any", "0.5", "float")
    assert (whole["min"], whole["max"], whole["step"], whole["data-kind"]) == ("1", "64", "1", "int")
    assert [row.value_kind for row in (bits, by)] == ["int", "text"]
    assert [option["value"] for option in Page(field(bits, "id")).of("option")] == ["8", "4"]
    assert "selected" in Page(field(by, "id")).of("option", value="ratio")[0]
    assert "checked" in Page(field(symmetric, "id")).of("input", type="checkbox")[0]
    (instead,) = Page(field(symmetric, "id", "instead")).of("select")
    assert instead["data-instead"] == "symmetric"


def test_an_open_bound_starts_one_step_inside():
    ratio, rank, bits, _, _ = setting_rows(Settings)
    assert (ratio.low, ratio.high, ratio.bounds, ratio.slider) == (0.01, 0.99, "above 0, below 1", True)
    assert (rank.low, rank.high, rank.bounds, rank.show_when) == (1, 64, "from 1, up to 64", {"by": "rank"})
    assert (bits.choices, bits.unit) == ((8, 4), "bits")


def test_every_setting_of_every_technique_can_be_shown():
    for technique in techniques().values():
        for row in setting_rows(technique.Settings):
            assert row.title != row.name, (technique.name, row.name)
            assert row.help, (technique.name, row.name)
            assert row.widget != "slider" or row.slider, (technique.name, row.name)
