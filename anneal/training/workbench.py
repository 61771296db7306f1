"""The workbench: what a warm worker keeps between runs.

Importing torch, loading the base and compiling take longer than a small micro-anneal itself. So a
worker keeps its engines (compiled for one shape), the weights that runs start from, and the
opened token files, and each run only sets the weights back to its start.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from anneal.errors import TrainingError
from anneal.plan.means import Means
from anneal.plan.values import Checkpoint, FromRun, LlamaShape, RunSpec, RunTask
from anneal.sources.tokenize import open_tokens
from anneal.sources.tokenizer import TokenizerInfo
from anneal.sources.values import Manifest
from anneal.store import Store, read_value
from anneal.training import checkpoint, long_sequences
from anneal.training import model as models
from anneal.training.engine import Engine, TorchEngine
from anneal.values import address

if TYPE_CHECKING:
    from transformers import PreTrainedModel

State = tuple[dict[str, Tensor], dict[str, Tensor] | None]


class Workbench:
    """Engines, starts and tokens, made once and used by many runs."""

    def __init__(self) -> None:
        self._engines: dict[str, Engine] = {}
        self._starts: dict[str, State] = {}
        self._tokens: dict[str, list[Any]] = {}
        self._manifests: dict[str, Manifest] = {}
        self._tokenizers: dict[str, TokenizerInfo] = {}

    def manifest(self, content: str, store: Store) -> Manifest:
        """The manifest of tokens by their content address."""
        if content not in self._manifests:
            path = store.tokens(content) / "manifest.json"
            self._manifests[content] = read_value(path, Manifest)
        return self._manifests[content]

    def end_of_text(self, tokenizer: str, store: Store) -> int:
        """The tokenizer's end-of-text id."""
        if tokenizer not in self._tokenizers:
            path = store.tokenizer(tokenizer) / "tokenizer_info.json"
            self._tokenizers[tokenizer] = read_value(path, TokenizerInfo)
        return self._tokenizers[tokenizer].end_of_text

    def tokens(self, task: RunTask, store: Store) -> dict[str, list[Any]]:
        """Opened shards of everything the run reads, by content address.

        Raises:
            TrainingError: when a folder holds other tokens than the spec names.
        """
        for content in task.spec.contents:
            if content in self._tokens:
                continue
            manifest = self.manifest(content, store)
            if manifest.content != content or manifest.tokenizer != task.spec.tokenizer:
                raise TrainingError(
                    f"{store.tokens(content)}: holds {manifest.content} of tokenizer "
                    f"{manifest.tokenizer}, the run wants {content} of {task.spec.tokenizer}",
                    hint="plan the sweep again",
                )
            self._tokens[content] = list(open_tokens(store.tokens(content), manifest))
        return {content: self._tokens[content] for content in task.spec.contents}

    def engine(self, task: RunTask, store: Store, phase: int = 0) -> Engine:
        """An engine of the right shape for a phase, with whatever weights it had last."""
        spec, means = task.spec, task.means
        key = self._key(task, store, phase)
        if key not in self._engines:
            self.close()  # one at a time: each holds weights and moments
            model = self._model(spec, store)
            if model.get_input_embeddings().weight.shape[0] < spec.vocabulary:
                raise TrainingError(
                    f"tokenizer {spec.tokenizer} has {spec.vocabulary} entries, the base only "
                    f"{model.get_input_embeddings().weight.shape[0]}",
                    hint="tokenise with the base's own tokenizer",
                )
            _check_sequences(model, spec, means)
            self._engines[key] = _make_engine(model, spec, means, phase)
        else:
            _check_sequences(self._engines[key].model, spec, means)
        return self._engines[key]

    def alike(self, task: RunTask, store: Store, first: int, second: int) -> bool:
        """Whether two phases of a run use one engine."""
        return self._key(task, store, first) == self._key(task, store, second)

    def close(self) -> None:
        """Lets go of the engine."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()

    def _key(self, task: RunTask, store: Store, phase: int) -> str:
        origin = address(self._origin(task.spec, store))
        return f"{origin}/{_engine_key(task.spec, task.means, phase)}"

    def start(self, task: RunTask, store: Store) -> State:
        """Weights and moments the run starts from."""
        spec = task.spec
        reset = bool(spec.phases) and spec.phases[0].optimiser_state == "reset"
        key = address(spec.start) + (f"/{spec.seed}" if _is_fresh(spec) else "")
        if key not in self._starts:
            self._starts.clear()
            if isinstance(spec.start, FromRun):
                self._starts[key] = checkpoint.load_weights(_weights(spec.start, store))
            else:
                model = self._model(spec, store)
                weights = {n: p.detach() for n, p in model.named_parameters()}
                self._starts[key] = (weights, None)
        weights, moments = self._starts[key]
        return weights, None if reset else moments

    def rehearse(self, task: RunTask, store: Store) -> None:
        """Makes the engine of a run whose start may not exist yet, and compiles it."""
        spec = task.spec
        if spec.phases:
            phase = spec.phases[0]
            self.engine(task, store).rehearse(phase.batch, phase.sequence, spec.score_sequence)

    def _model(self, spec: RunSpec, store: Store) -> PreTrainedModel:
        """A model of the run's shape; its weights are the start's only where nothing trained it."""
        match start := self._origin(spec, store):
            case LlamaShape():
                return models.llama(start, vocabulary=spec.vocabulary, seed=spec.seed)
            case Checkpoint():
                return models.checkpoint(start)

    def _origin(self, spec: RunSpec, store: Store) -> LlamaShape | Checkpoint:
        """What a chain of runs began with."""
        start = spec.start
        while isinstance(start, FromRun):
            start = read_value(store.run(start.run) / "task.json", RunTask).spec.start
        return start


def _is_fresh(spec: RunSpec) -> bool:
    return isinstance(spec.start, LlamaShape)


def _weights(start: FromRun, store: Store) -> Path:
    folder = store.run(start.run) / "weights"
    if not folder.is_dir():
        raise TrainingError(
            f"run {start.run}: its weights are not in the store",
            hint="run the sweep again: it trains the base first",
        )
    return folder


def _check_sequences(model: PreTrainedModel, spec: RunSpec, means: Means) -> None:
    """Whether model and engine can take every sequence of the run, before any is trained on."""
    models.check_positions(model, spec)
    if means.engine == "deepspeed":
        sequences = [*(phase.sequence for phase in spec.phases), spec.score_sequence]
        long_sequences.check(model, means, precision=spec.precision, sequences=sequences)


def _make_engine(model: PreTrainedModel, spec: RunSpec, means: Means, number: int) -> Engine:
    """The engine that `means` names, for one phase (for scoring, where there is none)."""
    phase = spec.phases[number] if spec.phases else None
    sequence = phase.sequence if phase else spec.score_sequence
    trainable = phase.trainable if phase else "all"
    if means.engine == "deepspeed":
        from anneal.training.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(
            model,
            spec.optimiser,
            precision=spec.precision,
            means=means,
            batch=phase.batch if phase else means.processes,
            sequence=sequence,
            trainable=trainable,
        )
    return TorchEngine(
        model,
        spec.optimiser,
        precision=spec.precision,
        means=means,
        sequence=sequence,
        trainable=trainable,
    )


def _engine_key(spec: RunSpec, means: Means, number: int) -> str:
    """What two runs, or phases, must share to use one engine, one after the other, without
    compiling anew."""
    phase = spec.phases[number] if spec.phases else None
    shape = [phase.batch, phase.sequence, phase.trainable] if phase else [spec.score_sequence]
    how = {"engine", "processes", "device", "compile", "micro_batch", "deepspeed", "long"}
    return address(
        [
            spec.optimiser.model_dump(mode="json"),
            means.model_dump(mode="json", include=how),
            [spec.precision, spec.vocabulary, *shape],
        ]
    )
