"""Of runs on the same samples the better one is told by the paired interval, and none where it shows no difference."""

import numpy as np
import pytest

from webapp.engine.run.metrics import Samples
from webapp.engine.run.race import Entrant, judged


def entrants(**shifts):
    """KL divergences of 200 samples whose own spread is far larger than what tells the entrants apart."""
    generator = np.random.default_rng(0)
    common = generator.gamma(2.0, 0.5, 200)
    found = {}
    for name, shift in shifts.items():
        values = common + shift + generator.normal(0, 0.01, 200)
        found[name] = Entrant(name.capitalize(), {"kl_divergence": Samples(values.tolist(), [1.0] * 200)})
    return found


def test_the_leader_wins_where_it_is_better_than_every_other():
    found = judged("kl_divergence", "budget", entrants(budget=0.0, gptq=0.1, plain=0.3))
    assert found["winner"] == "budget"
    low, high = found["rows"]["gptq"]["ci95"]
    assert low < -0.1 < high < 0
    assert found["sentence"].startswith("Budget is better than every other: KL divergence from the original ")
    assert "Gptq" in found["sentence"], "the closest of the others is named"


def test_a_leader_that_lost_is_said_to_have_lost_to_the_best():
    found = judged("kl_divergence", "budget", entrants(budget=0.2, gptq=0.1, plain=0.0, poor=0.9))
    assert found["winner"] == "plain"
    assert found["sentence"].startswith("Budget lost to “Plain”")
    assert [row["verdict"] for row in found["rows"].values()] == ["worse", "worse", "better"]


def test_without_a_difference_nobody_wins():
    found = judged("kl_divergence", "budget", entrants(budget=0.0, gptq=0.0, plain=0.5))
    assert found["winner"] is None
    assert found["sentence"].startswith("No difference shown between Budget and the best of the others")


def test_pairing_tells_apart_what_two_intervals_of_their_own_could_not():
    alone = entrants(budget=0.0, gptq=0.02)
    found = judged("kl_divergence", "budget", alone)
    assert found["winner"] == "budget"
    spread = np.std(alone["gptq"].scores["kl_divergence"].sums) / np.sqrt(200)
    assert spread > 0.02, "unpaired, the difference would be within one standard error"


def test_answers_that_are_no_numbers_lose():
    given = entrants(budget=0.0, gptq=0.3)
    given["budget"].scores["kl_divergence"].sums[0] = float("nan")
    found = judged("kl_divergence", "budget", given)
    assert found["winner"] == "gptq"
    assert "not a finite number" in found["sentence"]


def test_alone_there_is_nothing_to_compare():
    assert judged("kl_divergence", "budget", entrants(budget=0.0))["winner"] is None


@pytest.mark.parametrize("winner", ["budget", "plain"])
def test_accuracy_counts_the_other_way(winner):
    right = {"budget": 0.9 if winner == "budget" else 0.5, "plain": 0.7}
    scores = {
        name: Entrant(name, {"accuracy": Samples((np.arange(300) < 300 * share).astype(float).tolist(), [1.0] * 300)})
        for name, share in right.items()
    }
    found = judged("accuracy", "budget", scores)
    assert found["winner"] == winner
    assert "points)" in found["sentence"]
