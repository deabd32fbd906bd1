"""Hostile files, all at once: each ends with a sentence, and the site answers meanwhile."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable

from tests.api_client import Api, Refused
from tests.attacks.stalls import wait_for
from tests.hostile_inputs import CHECKPOINTS, DATASETS

ENDED_WITHIN_SECONDS = 1200.0  # all of them together
NO_SENTENCE = ("Traceback", "Error(", "Exception", "object at 0x")


def main(url: str, say: Callable[[str], None] = print) -> None:
    api, begun, worst = Api(url), time.monotonic(), 0.0
    told: dict[str, str] = {}
    waiting: dict[str, str] = {}
    for kind, made in (("checkpoints", CHECKPOINTS), ("datasets", DATASETS)):
        for name, content in made.items():
            try:
                row = json.loads(api.send("PUT", f"/{kind}?name={name}", content()))
                waiting[f"/{kind}/{row['id']}"] = name
            except Refused as refusal:
                told[name] = refusal.error["message"]
            worst = max(worst, wait_for(url))
    at_the_door, states = len(told), Counter({"refused": len(told)})
    while waiting:
        assert time.monotonic() - begun < ENDED_WITHIN_SECONDS, f"still inspected: {sorted(waiting.values())[:5]}"
        for path, name in list(waiting.items()):
            row = api.get(path)
            if row["state"] != "inspecting":
                del waiting[path]
                states[row["state"]] += 1
                if row["state"] == "refused":
                    told[name] = row["reason"]["message"]
        worst = max(worst, wait_for(url))
        time.sleep(0.2)
    seconds, count = time.monotonic() - begun, len(CHECKPOINTS) + len(DATASETS)
    poor = {name: text for name, text in told.items() if any(word in text for word in NO_SENTENCE)}
    assert not poor, f"these are no sentences: {poor}"
    say(
        f"{count} hostile files ended within {seconds:.0f} s ({seconds / count:.2f} s each): "
        f"{states['refused']} refused ({at_the_door} at once), {states['ready']} harmless; "
        f"pages came within {worst:.2f} s"
    )
