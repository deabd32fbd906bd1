"""Studies go on whoever dies, begin no run twice, and end with an answer that the runs' own figures show."""

import json
from datetime import timedelta
from types import SimpleNamespace

import pytest

from tests.engine.profiles.drawn_profiles import drawn_facts, drawn_profile
from tests.jobs.bench import Bench
from webapp.jobs.studies import advance_studies
from webapp.store.clock import now
from webapp.store.models import Checkpoint, Profile, Run, RunState, Stage, StageState, Study, UploadState

FACTS = drawn_facts(blocks=2)
PROFILE = drawn_profile(0, FACTS, measured=8)


class Queue:
    """Takes runs, and leaves them to the test."""

    def __init__(self):
        self.runs = []

    def enqueue_run(self, run_id):
        self.runs.append(run_id)


class Place:
    """An installation whose runs are made up."""

    def __init__(self, bench):
        self.bench, self.queue = bench, Queue()
        self.place = SimpleNamespace(sessions=bench.sessions, files=bench.files)
        given = {
            "state": UploadState.READY,
            "size_bytes": 1,
            "digest": "0" * 64,
            "facts": FACTS.model_dump(mode="json"),
        }
        with bench.sessions.begin() as session:
            self.checkpoint = Checkpoint(name="c", filename="c", **given)
            session.add(self.checkpoint)
            session.flush()
            facts = PROFILE.model_dump(mode="json")
            self.profile = Profile(checkpoint_id=self.checkpoint.id, key="k", state=RunState.SUCCEEDED, facts=facts)
            session.add(self.profile)

    def study(self, kind, **question):
        run = {"dataset_id": None, "exports": [], "seed": 0}
        given = {"families": None, "locks": {}, "run": run} | question
        with self.bench.sessions.begin() as session:
            row = Study(
                name="s", kind=kind, checkpoint_id=self.checkpoint.id, profile_id=self.profile.id, question=given
            )
            session.add(row)
        return row.id

    def look(self):
        advance_studies(self.place, self.queue)

    def get(self, study_id):
        with self.bench.sessions() as session:
            study = session.get(Study, study_id)
            _ = study.runs
            return study

    def end(self, run_id, loss, half=0.001, scores=None, state=RunState.SUCCEEDED):
        """The run is done, and has measured this."""
        measured = {"value": loss, "ci95": [loss - half, loss + half], "n": 100}
        with self.bench.sessions.begin() as session:
            run = session.get(Run, run_id)
            run.state, run.started_at, run.finished_at = state, now() - timedelta(seconds=30), now()
            if state is not RunState.SUCCEEDED:
                run.error = {"code": "x", "message": "It broke."}
                return
            size = (run.expected or {}).get("size_bytes", 1000)
            run.result = {"size_bytes": size, "metrics": {"kl_divergence": measured}}
            run.receipt = {"verdict": {"metric": None}}
            if scores is not None:
                path = self.bench.settings.instance / f"{run_id}.json"
                path.write_text(json.dumps({"kl_divergence": {"sums": scores, "counts": [1.0] * len(scores)}}))
                files = {"scores.json": {"digest": self.bench.files.put(path), "size_bytes": 1}}
                kept = {"title": "t", "key": "k", "state": StageState.SUCCEEDED, "files": files}
                session.add(Stage(run_id=run_id, position=0, name="verify-safetensors", **kept))


@pytest.fixture
def place(tmp_path):
    bench = Bench(tmp_path)
    yield Place(bench)
    bench.close()


def smallest(place, **more):
    limits = {"most_runs": 8, "most_minutes": 60, "certain": False, "tolerance": 0.1, "unit": "nats"}
    return place.study("smallest", **(limits | more))


def loss_of(size_bytes):
    """0.1 nats at a third of the original."""
    return 0.1 * (FACTS.weights_bytes / 3 / size_bytes) ** 3


def searched(place, study_id, loss=loss_of):
    """Looks, and has each run measure what its size gives, until the study has ended."""
    while True:
        place.look()
        study = place.get(study_id)
        if study.state.final:
            return study
        (run,) = (run for run in study.runs if not run.state.final)
        place.look()  # while it is under way nothing more is begun
        assert [each.id for each in place.get(study_id).runs] == [each.id for each in study.runs]
        place.end(run.id, loss(run.expected["size_bytes"]))


def test_the_smallest_file_within_a_tolerance_is_found_and_each_probe_says_why(place):
    study = searched(place, smallest(place))
    assert study.state is RunState.SUCCEEDED
    found = next(run for run in study.runs if run.id == study.conclusion["winner"])
    size = found.result["size_bytes"]
    assert size == pytest.approx(FACTS.weights_bytes / 3, rel=0.03)
    assert loss_of(size) <= 0.1
    assert place.queue.runs == [run.id for run in study.runs]
    assert study.runs[0].role["why"] == "The profile expects 0.1 nats worse at this size."
    for run in study.runs[1:]:
        assert "tolerance" in run.role["why"]
    for run in study.runs:
        assert run.result["size_bytes"] <= run.role["asked_bytes"]
        assert run.expected["loss"]["metric"] == "kl_divergence"
        assert run.recipe["steps"][0]["version"] >= 1
        assert run.needs["stages"]  # as of any run that is asked for
    assert study.conclusion["sentence"].startswith("The smallest file within the tolerance has ")


def test_where_nothing_that_was_measured_is_within_the_tolerance_that_is_the_answer(place):
    study = searched(place, smallest(place, most_runs=3), lambda size_bytes: 5.0)
    assert (study.state, study.conclusion["winner"]) == (RunState.SUCCEEDED, None)
    assert study.conclusion["sentence"].startswith("No file within the tolerance was found. ")
    sizes = [run.result["size_bytes"] for run in study.runs]
    assert sizes == sorted(sizes)  # each is tried for the one before it lost too much


def test_two_workers_that_look_at_once_begin_one_run(place):
    study_id = smallest(place)
    from webapp.jobs import studies

    whole = studies.searched

    def twice(at, study):
        decided = whole(at, study)
        studies.KINDS["smallest"] = whole
        place.look()  # another worker, while this one thinks
        return decided

    studies.KINDS["smallest"] = twice
    try:
        place.look()
    finally:
        studies.KINDS["smallest"] = whole
    assert len(place.get(study_id).runs) == 1


def test_runs_and_minutes_are_bounded(place):
    study = searched(place, smallest(place, most_runs=2))
    assert len(study.runs) == 2
    assert "2 runs were measured" in study.conclusion["sentence"]
    study = searched(place, smallest(place, most_minutes=0.1))  # and each of them takes 30 seconds
    assert len(study.runs) == 1
    assert "Another run would not end" in study.conclusion["sentence"]


def test_a_probe_that_fails_ends_the_search_with_what_was_found(place):
    study_id = smallest(place)
    place.look()
    place.end(place.queue.runs[0], 0.01)
    place.look()
    place.end(place.queue.runs[1], 0.0, state=RunState.FAILED)
    place.look()
    study = place.get(study_id)
    assert study.conclusion["winner"] == place.queue.runs[0]
    assert "It broke." in study.conclusion["sentence"]


def test_what_is_cancelled_begins_nothing_more(place):
    study_id = smallest(place)
    place.look()
    place.bench.jobs.cancel_study(study_id)
    place.look()
    study = place.get(study_id)
    assert study.state is RunState.CANCELLED
    assert [run.state for run in study.runs] == [RunState.CANCELLED]


def test_a_study_whose_profile_is_gone_says_so(place):
    study_id = smallest(place)
    with place.bench.sessions.begin() as session:
        session.get(Study, study_id).profile_id = None
    place.look()
    study = place.get(study_id)
    assert (study.state, study.error["code"]) == (RunState.FAILED, "budget_invalid")


def race(place, *titles):
    study_id = place.study("race", size_bytes=1000, others=len(titles) - 1)
    with place.bench.sessions.begin() as session:
        for title in titles:
            role = {"title": title} | ({"leads": True} if title == "Budget" else {})
            expected = {"loss": {"metric": "kl_divergence", "unit": "nats"}}
            given = {"recipe": {"version": 2, "steps": [{"technique": "cast"}]}, "expected": expected, "role": role}
            session.add(Run(name=title, checkpoint_id=place.checkpoint.id, study_id=study_id, **given))
    return study_id, {run.role["title"]: run.id for run in place.get(study_id).runs}


def test_a_race_ends_with_its_last_run_and_marks_the_better_one(place):
    study_id, runs = race(place, "Budget", "4 bits", "rank 25 %")
    samples = [0.1 * (n % 7) for n in range(200)]
    place.end(runs["Budget"], 0.3, scores=samples)
    place.end(runs["4 bits"], 0.4, scores=[value + 0.1 + 0.01 * (n % 3) for n, value in enumerate(samples)])
    place.look()
    assert place.get(study_id).state is RunState.RUNNING
    place.end(runs["rank 25 %"], 0.0, state=RunState.FAILED)
    place.look()
    study = place.get(study_id)
    assert study.conclusion["winner"] == runs["Budget"]
    rows = study.conclusion["by_metric"]["kl_divergence"]["rows"]
    assert list(rows) == [runs["4 bits"]]
    assert rows[runs["4 bits"]]["verdict"] == "better"
    assert study.conclusion["sentence"].endswith("Without a result: “rank 25 %”.")


def test_a_race_goes_on_with_a_run_that_is_tried_again(place):
    study_id, runs = race(place, "Budget", "4 bits")
    place.end(runs["Budget"], 0.0, state=RunState.FAILED)
    place.end(runs["4 bits"], 0.4, scores=[0.1 * (n % 7) + 0.1 + 0.01 * (n % 3) for n in range(200)])
    place.look()
    assert place.get(study_id).state is RunState.SUCCEEDED
    place.bench.jobs.retry_run(runs["Budget"])
    place.look()
    study = place.get(study_id)
    assert (study.state, study.conclusion) == (RunState.RUNNING, None)
    place.end(runs["Budget"], 0.3, scores=[0.1 * (n % 7) for n in range(200)])
    place.look()
    assert place.get(study_id).conclusion["winner"] == runs["Budget"]


def test_a_budget_that_lost_is_said_to_have_lost(place):
    study_id, runs = race(place, "Budget", "4 bits")
    samples = [0.1 * (n % 7) for n in range(200)]
    place.end(runs["Budget"], 0.4, scores=[value + 0.1 + 0.01 * (n % 3) for n, value in enumerate(samples)])
    place.end(runs["4 bits"], 0.3, scores=samples)
    place.look()
    study = place.get(study_id)
    assert study.conclusion["winner"] == runs["4 bits"]
    assert study.conclusion["sentence"].startswith("Budget lost to “4 bits”")


def test_a_budget_beside_which_nothing_uniform_is_as_small_is_said_to_have_run_alone(place):
    study_id, runs = race(place, "Budget")
    place.end(runs["Budget"], 0.3, scores=[0.1, 0.2])
    place.look()
    study = place.get(study_id)
    assert (study.state, study.conclusion["winner"]) == (RunState.SUCCEEDED, None)
    assert study.conclusion["sentence"].startswith("No uniform recipe gives a file that is as small")


def test_without_the_budgets_run_there_is_nothing_to_say(place):
    study_id, runs = race(place, "Budget", "4 bits")
    place.end(runs["Budget"], 0.0, state=RunState.FAILED)
    place.end(runs["4 bits"], 0.3, scores=[0.1, 0.2])
    place.look()
    study = place.get(study_id)
    assert (study.state, study.conclusion["winner"]) == (RunState.SUCCEEDED, None)
    assert "no result" in study.conclusion["sentence"]
