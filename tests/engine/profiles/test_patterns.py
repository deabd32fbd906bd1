"""Patterns match exactly what they are written for, and are few."""

from fnmatch import fnmatchcase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.profiles.drawn_profiles import drawn_facts
from webapp.engine.profiles.patterns import Patterns, escaped, merged
from webapp.engine.recipe import matches

UNITS = drawn_facts(23, 8, odd=True).units()
PATTERNS = Patterns(UNITS)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_they_match_all_that_is_wanted_and_none_of_the_others(data):
    marks = data.draw(st.lists(st.sampled_from("wo-"), min_size=len(UNITS), max_size=len(UNITS)))
    wanted, others = ([unit for unit, mark in zip(UNITS, marks, strict=True) if mark == kind] for kind in "wo")
    found = PATTERNS.cover(*(PATTERNS.of(unit.name for unit in units) for units in (wanted, others)))
    assert all(any(matches(unit, pattern) for pattern in found) for unit in wanted)
    assert not any(matches(unit, pattern) for unit in others for pattern in found)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (lambda name: name.endswith("down_proj"), ["*.down_proj"]),
        (lambda name: name.startswith("model.layers.3."), ["model.layers.3.*"]),
        (
            lambda name: name.endswith("up_proj") and ".1" in name,
            ["model.layers.1.mlp.up_proj", "model.layers.1[0-9].mlp.up_proj"],
        ),
        (lambda name: name == "model.embed_tokens", ["model.embed_tokens"]),
    ],
)
def test_they_are_as_a_person_would_write_them(wanted, found):
    chosen = PATTERNS.of(unit.name for unit in UNITS if wanted(unit.name))
    assert sorted(PATTERNS.cover(chosen, PATTERNS.of(unit.name for unit in UNITS) & ~chosen)) == sorted(found)


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 121).map(str), min_size=1))
def test_numbers_become_classes_that_hold_no_others(numbers):
    found = merged(f"h.{number}.w" for number in numbers)
    assert len(found) <= len(numbers)
    for number in map(str, range(1300)):
        assert any(fnmatchcase(f"h.{number}.w", pattern) for pattern in found) == (number in numbers)


def test_a_name_with_brackets_matches_itself():
    unit = UNITS[0].model_copy(update={"name": "moe[0].*?", "aliases": ()})
    assert matches(unit, escaped(unit.name))
    assert not matches(unit.model_copy(update={"name": "moe0.xx"}), escaped(unit.name))
