"""A child process without torch: it speaks the protocol and does what the job's script says, step by step.

As a stage or a profile it takes its script from the row, as scripted_worker says.
As an inspection it takes it from the uploaded file, which is JSON: {"script": [...], "facts": {...}}. To look at the
structure of a checkpoint, from its facts: {"script": [...]}.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path


def leave_with_the_worker() -> None:
    while os.read(0, 1024):
        pass
    os._exit(3)


def say(**message: object) -> None:
    print(json.dumps(message), flush=True)


def perform(job: dict, verb: str, argument: object) -> None:
    output = Path(job["output"])
    match verb:
        case "sleep":
            for _ in range(int(argument * 20)):
                time.sleep(0.05)
        case "wait_for":
            while not Path(argument).exists():
                time.sleep(0.05)
        case "progress":
            say(progress=argument, message=f"at {argument}")
        case "log":
            say(log=argument)
        case "point":
            say(point=argument)
        case "remember":  # how often the stage was begun before, from what it left in its scratch folder
            kept = Path(job["scratch"]) / "begun"
            kept.parent.mkdir(parents=True, exist_ok=True)
            begun = int(kept.read_text()) if kept.exists() else 0
            kept.write_text(str(begun + 1))
            say(log=f"begun {begun} times before")
        case "write":
            read = [path.read_text() for path in sorted(Path(job["output"]).parent.glob("*/*.txt"))]
            (output / "out.txt").write_text("|".join([str(argument), *read]))
        case "print":
            print(argument, flush=True)
        case "complain":
            print(argument, file=sys.stderr, flush=True)
        case "refuse":
            say(error={"code": "recipe_invalid", "message": argument, "field": "steps.0"})
            os._exit(3)
        case "exit":
            os._exit(argument)
        case "talk":  # facts of so many megabytes
            say(done=["x" * 1000] * argument * 1000)
            os._exit(0)
        case "kill_self":
            os.kill(os.getpid(), argument)
        case "kill_self_once":
            if not Path(argument).exists():
                Path(argument).touch()
                os.kill(os.getpid(), 9)
        case "spawn":
            if os.fork() == 0:
                time.sleep(argument)
                os._exit(0)
        case "spawn_session":
            if os.fork() == 0:
                os.setsid()
                time.sleep(argument)
                os._exit(0)
        case "environment":
            say(log=os.environ.get(argument, ""))
        case "allocate":
            import resource

            limit = job["memory_limit_bytes"]
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
            try:
                bytearray(argument)
            except MemoryError:
                say(error={"code": "out_of_memory", "message": "The process ran out of memory."})
                os._exit(3)


def note(job: dict, event: str) -> None:
    if ledger := job.get("run", {}).get("preprocessing", {}).get("ledger"):
        with open(ledger, "a") as file:
            file.write(f"{event} {job.get('stage', job['task'])} {os.getpid()}\n")


def main(job_file: str) -> int:
    job = json.loads(Path(job_file).read_text())
    if not os.environ.get("IGNORE_STDIN"):
        threading.Thread(target=leave_with_the_worker, daemon=True).start()
    if job["task"] == "stage":
        script = job["run"]["preprocessing"]["stages"][job["stage"]]
        facts = {"task": job["task"], "stage": job["stage"], "inputs": sorted(job["inputs"])}
    elif job["task"] == "profile":
        script, facts = (
            job["run"]["preprocessing"]["profile"],
            {"seed": job["run"]["seed"], "of": job["checkpoint"]["name"]},
        )
    elif job["task"] == "look_at_structure":
        script, facts = job["facts"]["script"], {"structure": {"task": job["task"]}, "pass_size": None}
    else:
        asked = json.loads(Path(job["upload"]).read_text())
        script, facts = asked["script"], asked["facts"] | {"notes": [job["task"], job["filename"]]}
    note(job, "start")
    for verb, argument in script:
        perform(job, verb, argument)
    note(job, "end")
    say(done=facts)
    return 0
