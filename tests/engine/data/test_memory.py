"""What samples take of memory on their way through a model, found without values."""

import pytest

from tests import zoo
from webapp.engine.data.memory import BatchSizes, ModelMemory
from webapp.engine.data.passing import pass_size
from webapp.engine.facts import PassSize
from webapp.engine.run.predict import plans_of


def test_what_a_small_network_is_given_and_gives():
    """64 → 48 → 10: the first layer is given 64 numbers and gives 48."""
    _, facts = zoo.checkpoint("mlp")
    assert pass_size(facts) == PassSize(
        values=64, largest_bytes=4 * (64 + 48), outputs_bytes=4 * (48 + 10), answer_bytes=4 * 10
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_every_kind_of_model_is_followed_without_values(family, dtype):
    size = pass_size(zoo.checkpoint(family, dtype)[1])
    assert size is not None
    assert bool(size.tokens) != bool(size.values)
    assert size.largest_bytes <= 2 * size.outputs_bytes
    assert (size.given_bytes > 0) == (family in zoo.SIZES)


def test_longer_texts_and_more_of_them_take_more():
    _, facts = zoo.checkpoint("llama")
    facts = facts.model_copy(update={"pass_size": pass_size(facts)})
    memory = ModelMemory.of(facts, plans_of(facts))
    assert not memory.streams  # it is small
    short, long = BatchSizes(1, tokens=64), BatchSizes(1, tokens=512)
    assert 7 * memory.passes(short) < memory.passes(long)
    assert memory.passes(BatchSizes(4, tokens=64)) > 3 * memory.passes(short)
    assert memory.attention(long) == 64 * memory.attention(short) > 0
    assert memory.states(BatchSizes(1, tokens=64, batches=5)) == 5 * memory.states(short)
