"""Whatever an upload holds, its inspection ends soon, takes little memory, and says in a sentence what was wrong."""

import re
import resource
import time

import pytest

from tests.hostile_inputs import CHECKPOINTS, DATASETS, one, safetensors
from webapp.engine.errors import PareError
from webapp.engine.progress import Silent
from webapp.engine.run.inspection import InspectionJob, inspected

SECONDS = 5.0  # of a processor, which a machine that stands still does not take; most take hundredths
GROWTH_BYTES = 700_000_000
FOLLOWED = {"slices", "gather", "expand", "tile", "pad", "reshape", "constant", "doubled"}
SPOKEN_BY_PROGRAMS = re.compile(
    r"Traceback|\w(Error|Exception)\b|\bnp\.|numpy|weights_only|torch\.load|set_int_max|to unpack|ndarray|NoneType|"
    r"object (is|has)|codec|recursion|0x[0-9a-f]{6}|\.py\b|enforce fail|b'|\[enum|has no sentence for|"
    r"more memory than an inspection"
)


def said_of(bench, name, content, task):
    """The sentence of its refusal, or what is noted of it once it is ready."""
    out = bench._out()
    try:
        facts = inspected(
            InspectionJob(task=task, upload=bench.file(name, content), filename=name, output=out), Silent()
        )
    except PareError as refused:
        assert list(out.iterdir()) == [], "something was left behind"
        return refused.message
    return " ".join([*facts["notes"], facts.get("weights_only_because") or "ready"])


def check(bench, name, content, task):
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    said = said_of(bench, name, content, task)
    took, grown = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert took < SECONDS, f"{name} took {took:.1f} s: {said}"
    assert grown * 1024 < GROWTH_BYTES, f"{name} took {grown / 1024:.0f} MB: {said}"
    assert not (spoken := SPOKEN_BY_PROGRAMS.search(said)), f"{name}: {spoken[0]} in: {said}"
    assert 10 < len(said) < 1500, said
    said.encode()


def is_slow(name):
    """Graphs that are followed until they grow too large take seconds each; one of them is enough."""
    return name.endswith(".onnx") and name.partition("_")[0] in FOLLOWED


PARAMETERS = [pytest.param(name, marks=pytest.mark.slow if is_slow(name) else ()) for name in CHECKPOINTS]


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_hostile_checkpoint(bench, name):
    check(bench, name, CHECKPOINTS[name](), "inspect_checkpoint")


@pytest.mark.parametrize("name", DATASETS)
def test_a_hostile_dataset(bench, name):
    check(bench, name, DATASETS[name](), "inspect_dataset")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("array_of_2e9_numbers.gguf", 'claims 2000000000 elements in "a", and 79 bytes of it are left'),
        ("blocks_2e40.gguf", '1099511627776 as "llama.block_count", beyond any model'),
        ("bert_num_labels_1e+09.zip", '1000000000 as "num_labels", beyond any model there is'),
        ("nested_text_config.zip", '1000000000 as "num_hidden_layers", beyond any model there is'),
        ("bytearray_of_1e9.pt", "holds a Python bytearray, which no state dict needs"),
        ("old_bytearray_of_2e40.pt", "holds a Python bytearray, which no state dict needs"),
        ("old_call_of_os_system.pt", "holds a pickled object of type os.system, which runs code when it is read"),
        ("10000_axes.safetensors", "w in 10000_axes.safetensors claims 10000 axes, which no tensor has"),
        ("zero_times_huge.safetensors", "w in .* claims the shape .*, which no tensor has"),
        ("a_name_that_is_no_text.safetensors", "names a tensor"),
    ],
)
def test_its_own_numbers_are_in_the_sentence(bench, name, sentence):
    assert re.search(sentence, said_of(bench, name, CHECKPOINTS[name](), "inspect_checkpoint"))


def test_half_a_character_names_its_line(bench):
    name = "half_a_character_in_a_text.jsonl"
    assert f"line 9 of {name} holds half of a character" in said_of(bench, name, DATASETS[name](), "inspect_dataset")


def test_a_backslash_before_a_u_is_text(bench):
    rows = [f'{{"text": "the escape \\\\u0000 and \\u00e9 {n}", "label": {n % 2}}}' for n in range(8)]
    assert bench.dataset(bench.file("a.jsonl", "\n".join(rows))).evaluation.n == 3


def test_what_nobody_foresaw_is_a_sentence_too(bench, monkeypatch):
    def fail(*_):
        raise AssertionError("a bug")

    monkeypatch.setattr("webapp.engine.importers.inspect._recognised", fail)
    said = said_of(bench, "a.safetensors", safetensors(one([1], 4), b"abcd"), "inspect_checkpoint")
    assert "in a way that Pare has no sentence for" in said
