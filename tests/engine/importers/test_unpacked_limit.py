"""Whoever hosts Pare decides how much an archive may unpack to."""

import pytest

from webapp.engine.errors import PareError
from webapp.engine.progress import Silent
from webapp.engine.run.inspection import InspectionJob, inspected


@pytest.mark.parametrize("task", ["inspect_checkpoint", "inspect_dataset"])
def test_an_archive_over_the_limit_is_refused_with_both_figures(bench, task):
    path = bench.zip("model.zip", {"config.json": "{}", "model.safetensors": b"x" * 5000})
    job = InspectionJob(task=task, upload=path, filename=path.name, output=bench._out(), max_unpacked_bytes=1000)
    with pytest.raises(PareError, match="would unpack to 5002 bytes; here at most 1000 are unpacked"):
        inspected(job, Silent())
    assert not list(bench.out.iterdir())
