"""llama.cpp's own formats: K-quants, IQ-quants and the older blocks, rounded by llama.cpp's code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from webapp.engine.facts import CheckpointFacts, LayerFacts
from webapp.engine.importers.gguf.importance import FILE, Entry, Importance, read_importance
from webapp.engine.importers.gguf.names import their_name, why_not
from webapp.engine.lazy import Tensor, torch
from webapp.engine.math import ggml
from webapp.engine.progress import tracked
from webapp.engine.recipe import StepSettings, TechniqueSettings, setting
from webapp.engine.techniques.base import MATRICES, AtWork, Context, Need, Outcome, calibration_samples
from webapp.engine.techniques.calibration import Covariance, SquareSum, WeightMatrix
from webapp.engine.techniques.calibration.block_by_block import BlockByBlock, joined, matrices_of
from webapp.engine.weights import Dense, DensePlan, Encoded, GgmlBlocks, GgmlPlan, StoragePlan, half_dtype
from webapp.engine.weights.memory import release_freed_memory
from webapp.engine.weights.model import Model

from .mixtures import BY_DATA, GUIDED, Mixture, exact_type, fitting, types_of

BEYOND = "its values are beyond those that {type} holds, whose scales are 16-bit floats"
LARGEST_BLOCK = 256
COMPENSATING = 8.0  # times the covariance of the inputs, as GPTQ takes them; and half as many of the largest matrix
HALVES = ("float16", "bfloat16")
HEAD = "lm_head"  # of which llama.cpp's tool measures nothing unless it is told to
ALIKE = "so all its inputs count alike"
NOT_IN_MATRIX = f"the importance matrix that came with the checkpoint says nothing of it, {ALIKE}"
NOT_SEEN = f"it wants an importance matrix, and the run has no data to make one of, {ALIKE}"


@dataclass(frozen=True)
class MixedSettings(StepSettings):
    """`types`: of the layers that no override is about, by name, as the step's mixture gives them."""

    types: Mapping[str, str] = field(default_factory=dict)

    def of(self, layer: LayerFacts) -> Any:
        given = super().of(layer)
        if given is not self.own or layer.name not in self.types:
            return given
        return given.model_copy(update={"type": self.types[layer.name], "pure": True})


class GgmlQuantization(BlockByBlock):
    name = "ggml_quantization"
    title = "llama.cpp's quantization"
    family = "llama.cpp"
    copies = 3.0
    summary = (
        "Rounds weights to the blocks of 8 to 2 bits that llama.cpp runs (K-quants, IQ-quants), as llama-quantize does "
        "and byte for byte as a GGUF holds them; calibration data tells it which inputs matter. Other formats decode "
        "them."
    )
    paper = "https://github.com/ggml-org/llama.cpp/pull/1684"
    needs = frozenset({"calibration", "calibration_if_any"})
    layers = MATRICES | {"embedding"}
    statistic = SquareSum
    requires = ("xllamacpp",)
    at_once = True  # what is measured of a block is measured before one of its layers changes
    rows_apart = True
    without_data = ALIKE

    class Settings(TechniqueSettings):
        type: Mixture = setting(
            "Q4_K_M",
            "Type",
            "One of llama.cpp's mixtures, which give some of a language model's layers more bits, by llama-quantize's "
            "names; of other models every layer gets the same. An override gives its layers that type itself. Those of "
            "IQ3_XS and below, and Q2_K_S, need calibration data.",
            per_layer=True,
        )
        pure: bool = setting(False, "Pure", "Every layer gets the same type, no mixture of several.", per_layer=True)
        importance: Literal["auto", "data", "none"] = setting(
            "auto",
            "Importance of inputs",
            "auto: by the importance matrix (imatrix) that came with the checkpoint, else by the run's data. "
            "data: by the run's data. none: all inputs count alike.",
        )
        compensation: bool = setting(
            False,
            "Error compensation (GPTQ)",
            "On: the codes of Q8_0, Q5_0, Q4_0, IQ4_NL, Q5_K and Q4_K are chosen column by column, and later columns "
            "make up for the errors of those before (Frantar et al. 2022). Takes calibration data, and longer.",
        )
        samples: int = calibration_samples()

    def needs_for(self, settings: Any) -> frozenset[Need]:
        guided = settings.type in GUIDED or ggml.TYPES[exact_type(settings.type)].guided or settings.compensation
        if settings.importance == "none" and not guided:
            return frozenset()
        return frozenset({"calibration" if guided else "calibration_if_any"})

    def brought(self, facts: CheckpointFacts, settings: Any) -> frozenset[Need]:
        there = facts.importance is not None and settings.importance == "auto" and not settings.compensation
        return frozenset({"calibration", "calibration_if_any"} if there else ())

    def lacks(self) -> str | None:
        return ggml.missing()

    def working_bytes(self, at: AtWork) -> int:
        more = COMPENSATING if at.settings.own.compensation else 0.0
        return super().working_bytes(at) + int(more * (at.covariance + at.largest / 2))

    def settled(self, facts: CheckpointFacts, settings: StepSettings, seen: bool = True) -> StepSettings:
        if settings.own.pure:
            return settings
        types = types_of(facts, facts.layers, settings.own.type, seen)
        return MixedSettings(settings.own, settings.overrides, types)

    def refuses(self, plan: StoragePlan) -> str | None:
        for leaf in plan.leaves:
            if leaf.holds != "floats":
                return f"its values are {leaf.holds} already; give each layer to one step only that rounds weights"
            if leaf.pruned:
                return "its zeros would not stay zeros in llama.cpp's blocks; leave the pruning out"
        return None

    def exact(self, settings: Any) -> bool:
        return bool(settings.pure or settings.type not in BY_DATA)

    def plan(self, layer: LayerFacts, plan: StoragePlan, settings: Any) -> StoragePlan:
        return plan.mapped(lambda simple: self._plan(simple, layer, exact_type(settings.type)))

    def _plan(self, plan: StoragePlan, layer: LayerFacts, wanted: str) -> StoragePlan:
        assert isinstance(plan, DensePlan)
        rows = max(layer.layout.rows(plan.shape), 1)
        found = fitting(wanted, plan.size // rows)
        if found is not None:
            return GgmlPlan.of(plan, found, layer.layout)
        return plan if plan.dtype in HALVES else replace(plan, dtype="float16")

    def apply(self, model: Model, settings: StepSettings, context: Context) -> list[Outcome]:
        spec, own = model.architecture, settings.own
        came = self._came(context) if own.importance == "auto" and not own.compensation else None
        measured = came is None and (own.importance != "none" or own.compensation) and context.data is not None
        measured = measured and spec is not None and spec.guess is None
        if context.facts is not None:
            seen = measured or came is not None
            settings = self.settled(context.facts, StepSettings(settings.own, settings.overrides), seen)
        if measured and own.compensation:
            from .compensation import Compensating

            return Compensating().compensate(model, settings, context)
        if measured:
            return super().apply(model, settings, context)
        outcomes = []
        for layer in tracked(context.layers, context.report, self.title + ": {item.name} ({index} of {total})"):
            own, inputs = settings.of(layer), None if came is None else came.of(layer)
            matrices = matrices_of(model, layer)
            outcomes.append(joined([self._alone(matrix, own, NOT_SEEN, inputs) for matrix in matrices]))
            if came is not None and inputs is None and layer.kind == "linear" and not layer.name.endswith(HEAD):
                outcomes[-1] = replace(outcomes[-1], ok=False, note=f"{outcomes[-1].note} {NOT_IN_MATRIX}".strip())
            release_freed_memory()
        return outcomes

    def _came(self, context: Context) -> Importance | None:
        """The importance matrix that came with the checkpoint, of layers that are still as they were."""
        if context.facts is None or context.facts.importance is None or context.files is None:
            return None
        return read_importance(context.files / FILE, FILE)

    def _alone(self, matrix: WeightMatrix, settings: Any, why: str = "", importance: Tensor | None = None) -> Outcome:
        """One whose inputs nobody saw here, or that has none: a table of embeddings."""
        fits = importance is not None and not matrix.side  # a factor's inputs are others
        with torch.no_grad():
            encoded = self._made(matrix, settings, importance if fits else None)
        matrix.keep(encoded)
        guided = isinstance(encoded, GgmlBlocks) and ggml.TYPES[encoded.type].guided and not fits
        if why == NOT_SEEN or matrix.layer.kind == "embedding":
            return self.told(matrix, encoded, settings, NOT_SEEN if guided and why else "")
        return self._plain(matrix, encoded, settings, why or "no calibration sample reached it")

    def compress_matrix(
        self, matrix: WeightMatrix, statistic: SquareSum, settings: Any, context: Context
    ) -> tuple[Encoded, Outcome]:
        encoded = self._made(matrix, settings, statistic.sums / max(statistic.count, 1))
        self.delivered(matrix, statistic.sums, statistic.count, context)
        return encoded, self.told(matrix, encoded, settings, "")

    def delivered(self, matrix: WeightMatrix, sums: Tensor, count: int, context: Context) -> None:
        """Keeps the sums of squares (groups, columns) of `count` rows of inputs for the file of importance."""
        if matrix.layer.kind == "linear" and not matrix.side and (name := their_name(matrix.layer.weight)):
            context.importance[name] = Entry(sums, torch.full((len(sums),), float(count)))

    def plainly(self, matrix: WeightMatrix, settings: Any) -> Encoded:
        return self._made(matrix, settings, None)

    def _made(self, matrix: WeightMatrix, settings: Any, importance: Tensor | None) -> Encoded:
        encoded, layout, wanted = matrix.encoded, matrix.layout, exact_type(settings.type)
        columns = encoded.plan.size // max(layout.rows(encoded.shape), 1)
        found = fitting(wanted, columns)
        if found is None:
            return encoded if encoded.plan.dtype in HALVES else Dense(encoded.decode().to(half_dtype(encoded)))
        try:
            return GgmlBlocks.nearest(encoded.decode(), found, layout, importance)
        except ValueError:
            return encoded

    def told(self, matrix: WeightMatrix, encoded: Encoded, settings: Any, note: str) -> Outcome:
        wanted, done, asked = exact_type(settings.type), encoded.plan.label, self.asked(matrix.layer, settings)
        columns = encoded.plan.size // max(matrix.layout.rows(encoded.shape), 1)
        if not isinstance(encoded, GgmlBlocks) and (found := fitting(wanted, columns)):
            return Outcome.left(matrix.layer.name, asked, BEYOND.format(type=found))
        notes = [note] if note else []
        if not isinstance(encoded, GgmlBlocks):
            notes.append(f"its rows of {columns} are no whole blocks of 32, so they are stored as 16-bit floats")
        elif encoded.type != wanted:
            notes.append(f"its rows of {columns} are no whole blocks of {ggml.TYPES[wanted].size}")
        return Outcome(matrix.layer.name, asked, done, ok=not notes, note="; ".join(notes))

    def offered(self, facts: CheckpointFacts) -> bool:
        """What llama.cpp runs: of another model no format holds the blocks."""
        spec = facts.architecture
        language = spec is not None and spec.family == "transformers" and spec.told_task == "causal-lm"
        return language and spec is not None and why_not(spec.config) is None and ggml.missing() is None

    def options(self, layer: LayerFacts, plan: StoragePlan, share: float) -> Iterable[Mapping[str, Any]]:
        if self.refuses(plan) or plan.factors:
            return
        columns = plan.size // max(layer.layout.rows(plan.shape), 1)
        large = columns % LARGEST_BLOCK == 0  # whose types lose less than those of small blocks in the same bytes
        for name, kind in ggml.TYPES.items():
            apt = kind.size == LARGEST_BLOCK if large else kind.size < LARGEST_BLOCK and name != "MXFP4"
            if (apt or name == "Q8_0") and fitting(name, columns) == name:
                yield {"type": name, "pure": True}

    def trials(
        self, matrix: WeightMatrix, inputs: Covariance | None, choices: Sequence[Any]
    ) -> Iterator[Encoded | None]:
        return super().trials(matrix, None if matrix.layer.kind == "embedding" else inputs, choices)

    def asked(self, layer: LayerFacts, settings: Any) -> str:
        return exact_type(settings.type)

    def named(self, settings: Any) -> str:
        return exact_type(settings.type)
