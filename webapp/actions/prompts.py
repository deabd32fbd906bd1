"""Prompts of one's own that a run's original and result answer; the answers are kept with the run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from webapp.engine.data.tasks import for_task
from webapp.engine.errors import quoted
from webapp.engine.facts import ArchitectureSpec
from webapp.engine.run.stages.job import PromptSet
from webapp.engine.run.stages.prompts import PromptsStage, set_name
from webapp.store.database import locked
from webapp.store.errors import FileMissing
from webapp.store.files import FileStore
from webapp.store.models import Checkpoint, Run, Stage, StageState

from .errors import BodyInvalid, Conflict, NotFound

MOST_PROMPTS = 8  # at once
MOST_SETS = 25  # of a run
LONGEST_PROMPT = 4_000  # characters
MOST_TOKENS = 128
TOKENS = 48
TEMPLATE_FILE = "chat_template.jinja"
MOST_SETTINGS = 20_000_000  # bytes of a tokenizer's settings: some name every added token


class PromptQueue(Protocol):
    """The part of the job client that this needs."""

    def ask_prompts(self, run_id: str, given: PromptSet) -> Any: ...


class PromptsRequest(BaseModel, extra="forbid"):
    prompts: list[str] = Field(
        min_length=1, max_length=MOST_PROMPTS, description="As the model reads them, where it is no chat."
    )
    max_tokens: int = Field(TOKENS, ge=1, le=MOST_TOKENS, description="Of each answer.")
    chat: bool = Field(False, description="Each is what a user says, in the chat template of the model's tokenizer.")


@dataclass(frozen=True)
class WrittenSide:
    """What one side wrote after a prompt, token by token; `ended` "stop" where the model said that it is done."""

    tokens: list[str]
    ended: str

    def same(self, count: int) -> str:
        return "".join(self.tokens[:count])

    def rest(self, count: int) -> str:
        return "".join(self.tokens[count:])


@dataclass(frozen=True)
class AnsweredPrompt:
    """`same` first tokens of both are alike."""

    prompt: str
    original: WrittenSide
    result: WrittenSide
    same: int

    @property
    def sentence(self) -> str:
        """How far both go together."""
        longest = max(len(self.original.tokens), len(self.result.tokens))
        if self.same == longest == min(len(self.original.tokens), len(self.result.tokens)):
            return f"All {longest} tokens are the same." if longest else "Neither writes anything."
        if not self.same:
            return "They part at the first token."
        return f"The first {self.same} of {longest} tokens are the same."


@dataclass(frozen=True)
class AskedPrompts:
    """A set of prompts, with its answers once they are there; `stage` is the work on it, None before it is planned."""

    name: str  # of the set, within the run
    texts: list[str]
    max_tokens: int
    chat: bool
    stage: Stage | None
    answers: list[AnsweredPrompt]

    @property
    def waits(self) -> bool:
        return self.stage is None or self.stage.state in (StageState.WAITING, StageState.RUNNING)


def why_no_prompts(run: Run) -> str | None:
    """Why the run answers no prompts, as a sentence; None where it does."""
    given = (run.checkpoint.facts or {}).get("architecture")
    spec = ArchitectureSpec.model_validate(given) if given else None
    if spec is None or for_task(spec, run.task).task != "causal-lm":  # type: ignore[arg-type]
        return f"{spec.title if spec else 'A model of weights alone'} writes no text, so it answers no prompts."
    if spec.family != "transformers" or spec.inputs.get("tokenizer") is False:
        return f"{spec.title} came without a tokenizer, so it cannot be given text."
    if run.receipt is None:
        return f"The run {run.name} is {run.state}; prompts are answered once it has succeeded."
    return None


def prompts_of(run: Run) -> list[AskedPrompts]:
    """The newest first."""
    stages = {stage.name: stage for stage in run.stages}
    found = []
    for row in reversed(run.prompts):
        given = PromptSet.model_validate(row)
        name = set_name(given)
        stage = stages.get(PromptsStage.name_of(name))
        answers = (stage.facts or {}).get("answers", ()) if stage is not None else ()
        found.append(
            AskedPrompts(name, [*given.texts], given.max_tokens, given.chat, stage, [*map(_answered, answers)])
        )
    return found


def _answered(told: dict[str, Any]) -> AnsweredPrompt:
    return AnsweredPrompt(told["prompt"], WrittenSide(**told["original"]), WrittenSide(**told["result"]), told["same"])


def has_chat_template(files: FileStore, checkpoint: Checkpoint) -> bool:
    """Whether the model's tokenizer has one."""
    held = {**checkpoint.files, **checkpoint.in_place}
    if TEMPLATE_FILE in held:
        return True
    settings = held.get("tokenizer_config.json")
    if settings is None or settings["size_bytes"] > MOST_SETTINGS:
        return False
    try:
        told = json.loads(files.path(settings["digest"]).read_bytes())
    except (FileMissing, ValueError, RecursionError):
        return False
    return isinstance(told, dict) and bool(told.get("chat_template"))


def ask_prompts(session: Session, files: FileStore, jobs: PromptQueue, run: Run, asked: PromptsRequest) -> None:
    """Has both answer them. Raises Conflict where the run answers none, is under way, or keeps as many as it may, and
    BodyInvalid for a prompt that is empty or too long, or a chat with a model that has no template for one."""
    if why := why_no_prompts(run):
        raise Conflict(why)
    if not run.state.final:
        raise Conflict(f"The run {run.name} is {run.state}; ask again when it is done.")
    for text in asked.prompts:
        if not text.strip():
            raise BodyInvalid("A prompt is empty; write something that the model is to go on from.", "prompts")
        if len(text) > LONGEST_PROMPT:
            raise BodyInvalid(
                f"The prompt {quoted(text)} has {len(text):,} characters; at most {LONGEST_PROMPT:,} are taken.",
                "prompts",
            )
    if asked.chat and not has_chat_template(files, run.checkpoint):
        raise BodyInvalid(f"The tokenizer of {run.checkpoint.name} has no chat template; ask without one.", "chat")
    given = PromptSet(texts=tuple(asked.prompts), max_tokens=asked.max_tokens, chat=asked.chat)
    if given.row not in run.prompts and len(run.prompts) >= MOST_SETS:
        raise Conflict(f"The run {run.name} keeps {MOST_SETS} sets of prompts, the most that it may. Delete one first.")
    jobs.ask_prompts(run.id, given)
    session.expire(run)


def delete_prompts(session: Session, run: Run, name: str) -> None:
    """The set of this name and its answers. Raises NotFound, or Conflict while the run is under way."""
    if locked(session, run) is None:
        raise NotFound("The run has just been deleted.")
    kept = [row for row in run.prompts if set_name(PromptSet.model_validate(row)) != name]
    if len(kept) == len(run.prompts):
        raise NotFound(f"The run {run.name} has no set of prompts {name[:40]!r}. It may have been deleted.", "name")
    if not run.state.final:
        raise Conflict(f"The run {run.name} is {run.state}; delete its prompts when it is done.")
    run.prompts = kept
    run.stages = [stage for stage in run.stages if stage.name != PromptsStage.name_of(name)]
    session.commit()
