"""The map finds blocks and what repeats in them in names alone, and loses no layer."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.web.layer_map import layer_map


def numbers(found):
    return sorted(number for row in found.rows for number in row.places if number is not None)


def test_a_transformer_has_a_row_for_each_block_and_a_column_for_each_matrix():
    names = ["model.embed_tokens"]
    names += [f"model.layers.{n}.{m}" for n in range(3) for m in ("self_attn.q_proj", "mlp.up_proj")]
    found = layer_map([*names, "vectors"])
    assert found.columns == ("q_proj", "up_proj")
    assert [(row.short, row.places, row.block) for row in found.rows] == [
        ("embed_tokens", (0,), False),
        ("0", (1, 2), True),
        ("1", (3, 4), True),
        ("2", (5, 6), True),
        ("vectors", (7,), False),
    ]
    assert found.rows[1].name == "model.layers.0"


def test_columns_are_told_apart_by_as_few_parts_as_it_takes():
    matrices = ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense")
    found = layer_map([f"encoder.layer.{n}.{m}" for n in range(2) for m in matrices])
    assert found.columns == ("query", "attention.output.dense", "intermediate.dense", "output.dense")


def test_blocks_of_other_makes_leave_places_empty():
    names = ["conv1"]
    for stage in (1, 2, 3):
        names += [f"layer{stage}.{n}.conv{m}" for n in (0, 1) for m in (1, 2)]
        names += [f"layer{stage}.0.downsample.0"] if stage > 1 else []
    found = layer_map(names)
    assert found.columns == ("conv1", "conv2", "downsample.0")
    rows = {row.name: row.places for row in found.rows}
    assert rows["layer1.0"][2] is None
    assert rows["layer2.0"][2] is not None
    assert [row.short for row in found.rows if row.block][:2] == ["layer1.0", "layer1.1"]


def test_blocks_in_stages_are_rows_each():
    names = [f"swin.layers.{s}.blocks.{b}.{m}" for s in range(2) for b in range(2) for m in ("query", "value")]
    assert [row.short for row in layer_map(names).rows] == ["0.blocks.0", "0.blocks.1", "1.blocks.0", "1.blocks.1"]


@pytest.mark.parametrize(
    "names",
    [
        ["features.conv1", "features.conv2", "classifier.fc1", "classifier.fc2", "vectors"],
        ["layers.0", "layers.2", "layers.4"],
        ["0", "2", "4"],
        ["encoder.layer.0.query", "encoder.layer.0.key"],
        [],
    ],
)
def test_a_model_without_blocks_is_a_list(names):
    found = layer_map(names)
    assert found.columns == ()
    assert [(row.name, row.places) for row in found.rows] == [(name, (n,)) for n, name in enumerate(names)]


NAMES = [".".join(parts) for count in (1, 2, 3, 4) for parts in product("ab01", repeat=count)]


@given(st.lists(st.sampled_from(NAMES), unique=True, max_size=30))
def test_every_layer_has_one_place(names):
    found = layer_map(names)
    assert numbers(found) == list(range(len(names)))
    assert all(len(row.places) == (len(found.columns) if row.block else 1) for row in found.rows)
    assert len(set(found.columns)) == len(found.columns)
