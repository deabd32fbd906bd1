"""Whatever a child does, its supervisor gets facts or a sentence out of it, and no process stays."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.jobs.scripted_worker import CHILD
from tests.patience import CANCELLED_WITHIN_SECONDS, PATIENCE_SECONDS, until, within
from webapp.engine.errors import OutOfMemory
from webapp.jobs import child as child_module
from webapp.jobs.child import ChildSupervisor, imports_of
from webapp.jobs.errors import ChildDied, ChildFailed, Stopped
from webapp.jobs.processes import is_running


class Told:
    def __init__(self):
        self.calls = []

    def __call__(self, fraction, message, lines, points=()):
        self.calls.append((time.monotonic(), fraction, message, lines, points))

    @property
    def lines(self):
        return [line for call in self.calls for line in call[3]]

    @property
    def points(self):
        return [tuple(point) for call in self.calls for point in call[4]]


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def supervise(tmp_path, told):
    """Has a child perform the script."""

    def supervise(*script, unwanted=lambda: False, memory_limit_bytes=10**9, foreseen_bytes=None, **options):
        supervisor = ChildSupervisor(entry=CHILD, **{"poll_seconds": 0.05, "tell_seconds": 0.05} | options)
        script_of_run = {"stages": {"s": script}, "ledger": str(tmp_path / "ledger")}
        job = {
            "task": "stage",
            "stage": "s",
            "run": {"preprocessing": script_of_run},
            "inputs": {},
            "output": str(tmp_path / "work/output"),
            "memory_limit_bytes": memory_limit_bytes,
            "foreseen_bytes": foreseen_bytes,
        }
        try:
            return supervisor.run(job, tmp_path / "work", told, unwanted)
        finally:
            assert supervisor.processes == set()
            supervisor.forks.close()

    return supervise


def started(tmp_path):
    return [line for line in (tmp_path / "ledger").read_text().splitlines() if line.startswith("start")]


def test_facts_and_files_and_news_come_out(supervise, told, tmp_path):
    point = {"series": "Training", "x": 3, "values": {"Loss": 0.5}}
    facts = supervise(["progress", 0.25], ["log", "half"], ["point", point], ["write", "x"], ["progress", 0.75])
    assert facts == {"task": "stage", "stage": "s", "inputs": []}
    assert (tmp_path / "work/output/out.txt").read_text() == "x"
    assert told.lines == ["half"]
    assert told.points == [("Training", 3.0, {"Loss": 0.5})]
    assert told.calls[-1][1:3] == (0.75, "at 0.75")


def test_news_are_passed_on_no_more_often_than_asked(supervise, told):
    supervise(*[["progress", at / 100] for at in range(100) for _ in range(20)], ["sleep", 0.3], tell_seconds=0.1)
    assert len(told.calls) <= 8
    assert told.calls[-1][1] == 0.99
    gaps = [later[0] - earlier[0] for earlier, later in zip(told.calls, told.calls[1:-1], strict=False)]
    assert all(gap >= 0.09 for gap in gaps)


def test_a_flood_of_log_lines_is_cut_and_says_so(supervise, told):
    supervise(*[["log", f"line {at}"] for at in range(500)], tell_seconds=30)
    assert len(told.lines) < 500
    assert any("lines left out" in line for line in told.lines)


def test_facts_of_many_megabytes_are_one_line(supervise):
    assert supervise(["talk", 20]) == ["x" * 1000] * 20_000


def test_garbage_on_stdout_is_logged_and_does_no_harm(supervise):
    assert supervise(["print", "hello"], ["print", "[1]"], ["print", "{\udcff"])["stage"] == "s"


def test_the_engines_error_comes_out_as_it_is(supervise):
    with pytest.raises(ChildFailed) as caught:
        supervise(["refuse", "The sparsity is too high."])
    assert caught.value.as_dict() == {
        "code": "recipe_invalid",
        "message": "The sparsity is too high.",
        "field": "steps.0",
    }


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ([["exit", 7]], "exit status 7 before it was done. It said nothing"),
        ([["exit", 0]], "exit status 0 before it was done"),
        ([["complain", "ValueError: odd"], ["exit", 1]], "its last words: ValueError: odd"),
        ([["kill_self", signal.SIGSEGV]], "the signal SIGSEGV"),
    ],
    ids=["exit", "silent end", "last words", "crash"],
)
def test_a_child_that_dies_is_told_in_a_sentence_and_not_started_again(supervise, tmp_path, script, sentence):
    with pytest.raises(ChildDied, match=sentence):
        supervise(*script)
    assert len(started(tmp_path)) == 1


def test_a_child_killed_from_outside_is_started_again_and_the_log_says_so(supervise, told, tmp_path):
    assert supervise(["write", "x"], ["kill_self_once", str(tmp_path / "killed")], ["progress", 1.0])["stage"] == "s"
    assert told.lines == ["The computing process was killed from outside; it is started again"]
    assert len(started(tmp_path)) == 2


def test_but_not_for_ever(supervise, tmp_path):
    with pytest.raises(ChildDied, match=r"killed from outside .* 3 times"):
        supervise(["kill_self", signal.SIGKILL], restarts=2)
    assert len(started(tmp_path)) == 3


def test_the_kernels_oom_killer_is_recognised(supervise, tmp_path, monkeypatch):
    counts = iter([5, 6])
    monkeypatch.setattr(child_module, "oom_kills", lambda: next(counts))
    with pytest.raises(OutOfMemory, match="ran out of memory"):
        supervise(["kill_self", signal.SIGKILL])
    assert len(started(tmp_path)) == 1


def test_the_memory_limit_reaches_the_child(supervise):
    with pytest.raises(ChildFailed) as caught:
        supervise(["allocate", 500_000_000], memory_limit_bytes=200_000_000)
    assert caught.value.code == "out_of_memory"


def test_a_stage_is_held_to_what_was_foreseen_and_then_gets_all_there_is(supervise, told, tmp_path):
    supervise(["allocate", 500_000_000], memory_limit_bytes=10**9, foreseen_bytes=200_000_000)
    assert len(started(tmp_path)) == 2
    assert told.lines == ["It needed more than the 200 MB that were foreseen; it is started again"]


def test_native_code_that_crashes_when_held_gets_all_there_is(supervise, told, tmp_path):
    with pytest.raises(ChildDied, match="SIGABRT"):
        supervise(["kill_self", signal.SIGABRT], memory_limit_bytes=10**9, foreseen_bytes=200_000_000)
    assert len(started(tmp_path)) == 2
    assert told.lines == ["It crashed, held to the 200 MB that were foreseen; it is started again"]


def test_no_more_than_there_is_is_tried_where_that_was_foreseen(supervise, tmp_path):
    with pytest.raises(ChildFailed) as caught:
        supervise(["allocate", 500_000_000], memory_limit_bytes=200_000_000, foreseen_bytes=300_000_000)
    assert caught.value.code == "out_of_memory"
    assert len(started(tmp_path)) == 1


def test_a_library_that_aborts_for_want_of_memory_is_recognised(supervise):
    with pytest.raises(OutOfMemory):
        supervise(["complain", "terminate called after throwing 'std::bad_alloc'"], ["kill_self", signal.SIGABRT])


@pytest.mark.parametrize("spawn", ["spawn", "spawn_session"])
def test_unwanted_work_ends_within_three_seconds_with_all_its_processes(supervise, tmp_path, spawn):
    before = set(psutil.Process().children(recursive=True))

    def stopped():
        wanted_until = time.monotonic() + 1.0
        with pytest.raises(Stopped):
            supervise([spawn, 60], ["sleep", 60], unwanted=lambda: time.monotonic() > wanted_until)
        return time.monotonic() - wanted_until

    within(CANCELLED_WITHIN_SECONDS, stopped)
    for process in psutil.process_iter():
        if process not in before and process.is_running():
            assert str(tmp_path) not in _folder(process)


def _folder(process):
    """Where it works; every child and what it starts do that in the child's own folder."""
    try:
        return process.cwd() if process.status() != psutil.STATUS_ZOMBIE else ""
    except psutil.Error:
        return ""


def test_a_grandchild_that_holds_the_pipes_open_holds_nobody_up(supervise):
    began = time.monotonic()
    assert supervise(["spawn", 600])["stage"] == "s"
    assert time.monotonic() - began < PATIENCE_SECONDS


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_the_threads_are_limited_by_the_environment(supervise, told, variable):
    supervise(["environment", variable], threads=3)
    assert told.lines == ["3"]


def test_settings_and_secrets_do_not_reach_the_child(supervise, told, monkeypatch):
    monkeypatch.setenv("PARE_SECRET_KEY", "sesame")
    supervise(["environment", "PARE_SECRET_KEY"])
    assert told.lines == [""]


SUPERVISE_FOREVER = """
import json, sys
from pathlib import Path
from webapp.jobs.child import ChildSupervisor
folder = Path(sys.argv[1])
job = {"task": "stage", "stage": "s", "inputs": {}, "output": str(folder / "output"),
       "run": {"preprocessing": {"stages": {"s": [["sleep", 600]]}, "ledger": str(folder / "ledger")}}}
ChildSupervisor(entry=sys.argv[2]).run(job, folder, print, lambda: False)
"""


@pytest.mark.parametrize("deaf", [False, True], ids=["child watches stdin", "child watches nothing"])
def test_a_child_does_not_outlive_a_killed_supervisor(tmp_path, deaf):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | ({"IGNORE_STDIN": "1"} if deaf else {})
    arguments = [sys.executable, "-c", SUPERVISE_FOREVER, str(tmp_path), CHILD]
    supervisor = subprocess.Popen(arguments, env=environment)
    while not (tmp_path / "ledger").exists() or not (tmp_path / "ledger").read_text().endswith("\n"):
        time.sleep(0.02)
    child = int((tmp_path / "ledger").read_text().split()[2])
    assert is_running(child)
    supervisor.kill()
    supervisor.wait()
    until(lambda: not is_running(child))


def test_children_and_their_server_may_die_and_the_next_child_starts(tmp_path):
    supervisor = ChildSupervisor(entry=CHILD, poll_seconds=0.05)
    told = Told()

    def job(name, *script):
        run = {"preprocessing": {"stages": {"s": script}, "ledger": str(tmp_path / "ledger")}}
        return {"task": "stage", "stage": "s", "inputs": {}, "run": run, "output": str(tmp_path / name / "output")}

    supervisor.run(job("first"), tmp_path / "first", told, lambda: False)
    os.kill(supervisor.forks.server_pid, signal.SIGKILL)
    supervisor.run(job("second"), tmp_path / "second", told, lambda: False)
    assert told.lines == []  # nothing had begun: nothing was lost

    def kill_the_server():
        while len(started(tmp_path)) < 3:
            time.sleep(0.02)
        os.kill(supervisor.forks.server_pid, signal.SIGKILL)

    threading.Thread(target=kill_the_server).start()
    supervisor.run(job("third", ["sleep", 1]), tmp_path / "third", told, lambda: False)
    assert told.lines == ["The computing process was killed from outside; it is started again"]
    assert len(started(tmp_path)) == 4
    supervisor.forks.close()


def test_what_cannot_be_imported_is_told_in_a_sentence(tmp_path):
    supervisor = ChildSupervisor(entry="tests.jobs.no_such_module", poll_seconds=0.05)
    with pytest.raises(ChildDied, match=r"does not start: what it needs cannot be imported.*The worker's log"):
        supervisor.run({"output": str(tmp_path / "output")}, tmp_path, Told(), lambda: False)


def of(family):
    return {"facts": {"architecture": family and {"family": family}}}


def stage(name, family, teacher=None):
    return {"task": "stage", "stage": name, "checkpoint": of(family), "teacher_checkpoint": teacher}


@pytest.mark.parametrize(
    ("job", "package"),
    [
        ({"task": "inspect_checkpoint", "filename": "net.pt"}, None),
        ({"task": "inspect_checkpoint", "filename": "BERT.ZIP"}, "transformers"),
        ({"task": "inspect_dataset", "filename": "pets.zip"}, None),
        ({"task": "look_at_structure", **of("cnn")}, "torch"),
        ({"task": "look_at_structure", **of("transformers")}, "transformers"),
        (stage("step-1", None), None),
        (stage("export-safetensors", "cnn"), None),
        (stage("export-onnx", "cnn"), "torch"),
        (stage("step-1", "cnn", of("transformers")), "transformers"),
        ({"task": "profile", "checkpoint": of("transformers")}, "transformers"),
    ],
)
def test_what_takes_long_to_import_is_imported_for_those_who_need_it(job, package):
    assert {name.split(".")[0] for name in imports_of(job)} == ({package} if package else set())


def test_cancel_does_not_wait_for_the_imports(tmp_path):
    def stopped():
        supervisor = ChildSupervisor(poll_seconds=0.05)
        began = time.monotonic()
        with pytest.raises(Stopped):
            supervisor.run(
                {"output": str(tmp_path / "output")}, tmp_path, Told(), lambda: time.monotonic() > began + 0.2
            )
        took = time.monotonic() - began
        supervisor.forks.close()
        return took

    within(1.5, stopped)


def test_when_the_worker_ends_nothing_of_the_killed_child_is_reported(tmp_path):
    supervisor = ChildSupervisor(entry=CHILD, poll_seconds=0.05)
    outcome = []
    job = {
        "task": "stage",
        "stage": "s",
        "inputs": {},
        "output": str(tmp_path / "output"),
        "run": {"preprocessing": {"stages": {"s": [["sleep", 60]]}, "ledger": str(tmp_path / "ledger")}},
    }

    def work():
        outcome.append(supervisor.run(job, tmp_path, Told(), lambda: False))

    threading.Thread(target=work, daemon=True).start()
    while not (tmp_path / "ledger").exists():
        time.sleep(0.02)
    child = next(iter(supervisor.processes))
    supervisor.closing.set()
    supervisor.kill_all()
    time.sleep(0.5)
    assert not is_running(child)
    assert outcome == []
