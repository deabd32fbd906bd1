"""A bench whose workers do scripted work: everything of the real thing but torch."""

import pytest

from tests.jobs.bench import Bench


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path, "tests.jobs.scripted_worker")
    yield bench
    bench.close()
