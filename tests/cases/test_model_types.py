"""Every model type of transformers that Pare was tried on: the folder in, pruned, quantized, judged and proven."""

import pytest

from tests.engine.conftest import Bench
from tests.engine.importers.model_types import CASES, runs_and_is_proven


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # of the libraries, on the way through their own models
@pytest.mark.parametrize("name", CASES)
def test_it_is_inspected_pruned_quantized_judged_and_proven(tmp_path, name):
    runs_and_is_proven(name, Bench(tmp_path))
