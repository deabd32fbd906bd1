"""The one shape that every error of the API has."""

from typing import Any


def error_of(answer: Any, status: int) -> dict[str, str]:
    assert answer.status_code == status, answer.text
    assert set(answer.json) == {"error"}
    assert {"code", "message"} <= set(answer.json["error"]) <= {"code", "message", "field"}
    assert answer.json["error"]["message"].rstrip("\"'")[-1] in ".)"
    return answer.json["error"]
