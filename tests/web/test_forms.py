"""Forms are made from what a technique declares, and from nothing else."""

from typing import Literal

from pydantic import BaseModel, Field
from wtforms import BooleanField, FloatField, IntegerField, SelectField

from webapp.engine.techniques import techniques
from webapp.web.forms import setting_rows, settings_form


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
    form = settings_form(Settings)()
    kinds = [type(field) for field in form]
    assert kinds == [FloatField, IntegerField, SelectField, SelectField, BooleanField]
    assert [field.data for field in form] == [0.5, 8, 8, "ratio", True]


def test_an_open_bound_starts_one_step_inside():
    ratio, rank, bits, _, _ = setting_rows(Settings)
    assert (ratio.low, ratio.high, ratio.bounds, ratio.slider) == (0.01, 0.99, "above 0, below 1", True)
    assert (rank.low, rank.high, rank.bounds, rank.show_when) == (1, 64, "from 1, up to 64", {"by": "rank"})
    assert (bits.choices, bits.unit) == ((8, 4), "bits")


def test_the_form_holds_the_bounds_that_the_model_holds():
    form = settings_form(Settings)(data={"ratio": 0.3, "rank": 100, "bits": 8, "by": "rank", "symmetric": True})
    form.process(formdata=None, data={"ratio": 0.3, "rank": 100, "bits": 8, "by": "rank", "symmetric": True})
    assert 'max="64"' in str(form.rank())
    assert 'data-kind="int"' in str(form.bits())


def test_every_setting_of_every_technique_can_be_shown():
    for technique in techniques().values():
        for row in setting_rows(technique.Settings):
            assert row.title != row.name, (technique.name, row.name)
            assert row.help, (technique.name, row.name)
            assert row.widget != "slider" or row.slider, (technique.name, row.name)
