"""What the API gives and takes of models that are served or tried."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from .schemas import ApiAnswer


class DeploymentAnswer(ApiAnswer):
    name: str
    run_id: str
    artifact: str
    state: Literal["starting", "ready", "stopped", "failed"]
    reason: str | None = Field(description="Why it is not ready, where that is known.")
    url: str = Field(description="What the addresses of the protocols begin with: URL/v1/models/NAME:predict.")
    requests: int = Field(description="Answered so far, over all restarts.")
    deaths: int = Field(description="How often its process had to be started again.")
    memory_bytes: int | None
    signature: dict[str, Any] | None = Field(description="Inputs and outputs of the model, once it was ready.")
    ready_at: datetime | None
    created_at: datetime


class NewDeploymentAnswer(DeploymentAnswer):
    token: str = Field(description="Send it with every request: Authorization: Bearer TOKEN. It is told this once.")


class DeploymentsAnswer(BaseModel):
    items: list[DeploymentAnswer]


class ShareOfClass(BaseModel):
    name: str
    probability: float


class TrialAnswer(BaseModel):
    """Of the fields after `took_ms` those that the model's task has."""

    state: Literal["starting", "ready", "stopped", "failed"] = Field(description="Ask again while it is starting.")
    reason: str | None = None
    took_ms: float | None = Field(None, description="In the model's process, from the request to the whole answer.")
    text: str | None = Field(None, description="A language model's continuation.")
    tokens: list[str] | None = Field(None, description="The same, token by token.")
    similarity: float | None = Field(None, description="The cosine of the two texts' vectors, -1 to 1.")
    classes: list[ShareOfClass] | None = Field(None, description="Of a classifier, in the order of its answer.")
    values: list[float] | None = Field(None, description="What any other model answers for the sample, flat.")
