"""A worker takes what fits it, the oldest first; what fits none waits, says why, and keeps nobody."""

from tests.jobs.bench import GIGABYTE
from webapp.store.models import Run, RunState

SHORT = {"stages": {"a": [["write", "a"]]}}


def needs(memory_bytes):
    return {"memory_bytes": memory_bytes, "disk_bytes": 0, "stages": []}


def start(bench, memory_bytes):
    bench.environment["PARE_RUN_MEMORY_LIMIT_BYTES"] = str(memory_bytes)
    return bench.start_worker()


def test_what_fits_no_worker_waits_and_says_so_until_one_comes_that_it_fits(bench):
    start(bench, 4 * GIGABYTE)
    large = bench.run(SHORT, needs=needs(9 * GIGABYTE))
    small = bench.run(SHORT, needs=needs(2 * GIGABYTE))
    assert bench.ended(small).state is RunState.SUCCEEDED
    bench.until(lambda: "it needs 9.00 GB of memory, and the largest has 4.00 GB" in bench.get(Run, large).message)
    assert bench.get(Run, large).state is RunState.QUEUED
    start(bench, 16 * GIGABYTE)
    assert bench.ended(large).state is RunState.SUCCEEDED
    assert bench.get(Run, large).message == "Done"


def test_what_a_dead_worker_had_taken_and_not_begun_waits_again(bench):
    first = start(bench, GIGABYTE)
    held = bench.run({"stages": {"a": [["sleep", 600]]}})
    bench.until(lambda: bench.get(Run, held).state is RunState.RUNNING)
    queue = next(name for name in queues(bench) if "@" in name)
    waiting = bench.run(SHORT)
    move(bench, waiting, queue)  # as if it had died between taking and beginning
    bench.end(first)
    bench.jobs.cancel_run(held)
    (bench.settings.instance / "workers" / "1.lock").unlink()  # so that the next one is another
    other = bench.settings.instance / "machine_id"
    other.write_text("another machine")
    start(bench, GIGABYTE)
    assert bench.ended(waiting).state is RunState.SUCCEEDED
    bench.until(lambda: queue not in queues(bench))


def queues(bench):
    """As the job system has them."""
    return [queue.name for queue in bench.jobs._connected().list_queues()]


def move(bench, run_id, queue):
    bench.jobs._connected().resume_workflow(f"{run_id}-1", queue_name=queue)


def test_what_was_cancelled_while_it_waited_keeps_no_worker(bench):
    """As where a study of hundreds is cancelled: the next run begins at once."""
    many = [bench.run(SHORT) for _ in range(40)]
    for run_id in many:
        bench.jobs.cancel_run(run_id)
    start(bench, GIGABYTE)
    assert bench.ended(bench.run(SHORT)).state is RunState.SUCCEEDED
    statuses = {workflow.workflow_id: workflow.status for workflow in bench.jobs._connected().list_workflows()}
    assert {statuses[f"{run_id}-1"] for run_id in many} == {"CANCELLED"}
    bench.jobs.retry_run(many[0])
    assert bench.ended(many[0]).state is RunState.SUCCEEDED
