"""How large the model of a full run is, and whether its phases and processes suit it."""

from __future__ import annotations

import json
from pathlib import Path

from anneal.curation.values import TrainedTokenizer
from anneal.errors import PlanError, SourceError
from anneal.plan.flops import llama_parameters
from anneal.plan.values import LlamaShape
from anneal.pretrain.supplies import asked_of
from anneal.sources.tokenizer import tokenizer_file
from anneal.sweep.base import count_parameters
from anneal.sweep.values import Sweep


def check_model(ask: Sweep) -> None:
    """Refuses what the model cannot do, before anything starts.

    Raises:
        PlanError: scratch without a shape, a sequence beyond the positions, heads that processes
            cannot share.
    """
    asked, model = asked_of(ask), ask.model
    if not isinstance(model, LlamaShape):
        if asked.start == "scratch":
            raise PlanError(
                f"pretrain: start scratch, but the model is the checkpoint {model.path}",
                hint="set pretrain.start=base and take out the phases it had, as pretrain=olmo2 "
                "does; or give a shape, model=llama_1b3 for one",
            )
        return
    for phase in asked.phases:
        if phase.sequence > model.max_positions:
            raise PlanError(
                f"phase `{phase.name}`: sequences of {phase.sequence:,} tokens, the model has "
                f"{model.max_positions:,} positions",
                hint=f"set model.max_positions={phase.sequence}",
            )
    apart = asked.engine.long.sequence_parallel
    if model.heads % apart or model.kv_heads % apart:
        raise PlanError(
            f"pretrain.engine.long.sequence_parallel={apart} does not divide the model's heads "
            f"({model.heads} and {model.kv_heads} of keys and values)",
            hint="set it to a divisor of both",
        )


def vocabulary_of(ask: Sweep) -> int:
    """Entries of the sweep's tokenizer, whether or not it exists yet.

    Raises:
        PlanError: a tokenizer that is not on this machine.
    """
    if isinstance(ask.tokenizer, TrainedTokenizer):
        return ask.tokenizer.vocabulary
    path = Path(ask.folder) / Path(ask.tokenizer.path).expanduser()
    try:
        content = json.loads(tokenizer_file(path).read_bytes())
        ids = [token["id"] for token in content.get("added_tokens", ())]
        known = content["model"]["vocab"]
        ids += known.values() if isinstance(known, dict) else [len(known) - 1]
        return int(max(ids)) + 1
    except (SourceError, ValueError, KeyError, TypeError) as error:
        raise PlanError(
            f"tokenizer {ask.tokenizer.path}: its entries cannot be counted here: {error}",
            hint="give a folder with a tokenizer.json on this machine",
        ) from None


def parameters_of(ask: Sweep, vocabulary: int) -> int:
    """Parameters of the model.

    Raises:
        PlanError: a checkpoint that is not on this machine.
    """
    model = ask.model
    if isinstance(model, LlamaShape):
        return llama_parameters(model, vocabulary)
    if model.parameters:
        return model.parameters
    for folder in (Path(model.path), Path(ask.folder) / model.path):
        if (folder / "config.json").is_file():
            return count_parameters(folder)
    raise PlanError(
        f"base {model.path}: its parameters cannot be counted here",
        hint="give the path of a Hugging Face model folder, or model.parameters",
    )
