"""Whoever hosts Pare decides how much an archive may unpack to."""

from contextvars import copy_context

from webapp.engine.archive import most_unpacked_bytes


def test_an_archive_over_the_limit_is_refused_with_both_figures(bench):
    path = bench.zip("model.zip", {"config.json": "{}", "model.safetensors": b"x" * 5000})

    def refused() -> str:
        most_unpacked_bytes.set(1000)
        return bench.refusal(path)

    said = copy_context().run(refused)
    assert "would unpack to 5002 bytes" in said
    assert "at most 1000" in said
