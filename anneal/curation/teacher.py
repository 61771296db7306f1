"""Teachers: language models that answer requests, in this process or behind a server.

A teacher is told one request after another and gives answers back as they come, in whatever order
that is. A request is all that decides an answer; its address with the teacher's is the key under
which the answer is kept. So the seed of a request follows from what is asked, never from its place
in a queue, and the same question asked by another source costs nothing.

How far an answer is determined by its key is up to the engine. vLLM draws each request's tokens
with a generator of its own, but sums in an order that depends on the batch, and two tokens that
are nearly equally likely may then change places; servers of providers promise less. What makes a
source reproducible is that an answer, once paid for, is kept and found again.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anneal.curation.steps import Offline, Server
from anneal.errors import SourceError
from anneal.sources.files import fingerprint
from anneal.sources.values import TreeReader
from anneal.store import Store
from anneal.values import address, canonical

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""Of a model folder, what an engine reads; weights in pickles are never opened."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a teacher."""

    prompt: str
    """Before the model's own chat template, where it has one."""
    max_output: int
    """Tokens of the answer."""
    temperature: float
    top_p: float
    seed: int

    def key(self, teacher: str) -> str:
        """Address of the request to the teacher with address `teacher`."""
        rest = [self.max_output, self.temperature, self.top_p, self.seed]
        return address([teacher, self.prompt, *rest])


@dataclass(frozen=True, slots=True)
class Answer:
    """What a teacher said, and what it took."""

    text: str
    finish: str
    """stop; length: cut at the request's limit or the end of the context; context: never begun,
    since the prompt leaves no room; or the server's own word."""
    prompt_tokens: int
    output_tokens: int
    seconds: float
    """Device seconds of an engine in this process; 0 where a server has them."""


class Teacher(ABC):
    """Answers requests; made when the first one must really be asked."""

    seconds_to_start: float = 0.0
    """Device seconds before the first request."""

    @abstractmethod
    def submit(self, key: str, request: Request) -> None:
        """Takes a request; does not wait for its answer."""

    @abstractmethod
    def collect(self) -> list[tuple[str, Answer]]:
        """Answers that have come, by key; waits for the first.

        Raises:
            SourceError: the teacher is down, refuses, or answers what is no answer. What others
                were answered meanwhile comes with the next call.
        """

    @abstractmethod
    def close(self) -> None:
        """Gives up what is unanswered."""


def start(teacher: Offline | Server, base: Path) -> Teacher:
    """The teacher of a step, ready to be asked.

    Raises:
        SourceError: the model cannot be loaded; the key's variable is not set.
    """
    if isinstance(teacher, Server):
        from anneal.curation.teacher_server import ServedTeacher

        return ServedTeacher(teacher)
    from anneal.curation.teacher_offline import OfflineTeacher

    return OfflineTeacher(teacher, model_folder(teacher, base))


def settled(teacher: Offline | Server, base: Path) -> Offline | Server:
    """`teacher` with the newest commit of a hub model pinned, so that plan and worker agree.

    Raises:
        SourceError: neither a folder nor known to the hub.
    """
    if isinstance(teacher, Server) or local_folder(teacher, base) is not None:
        return teacher
    return teacher.model_copy(update={"revision": _commit(teacher)})


def teacher_address(teacher: Offline | Server, base: Path, store: Store) -> str:
    """Address of the model behind a settled teacher.

    A folder goes by its content, a hub model by its commit, a server's model by its name: the same
    model may be served from anywhere, and another one must be given another name.
    """
    if isinstance(teacher, Server):
        return address(["served", teacher.model])
    folder = local_folder(teacher, base)
    if folder is None:
        return address(["hub", teacher.model, teacher.revision])
    digests = [
        fingerprint(
            TreeReader(path=str(folder), glob=glob, max_bytes=2**62), base=base, store=store
        )
        for glob in MODEL_FILES
        if any(folder.glob(glob))
    ]
    return address(["folder", digests])


def request_seed(seed: int, number: int, prompt: str, temperature: float) -> int:
    """Seed of a request, 31 bits: from the step's seed, which of its seed document's it is, and
    the prompt. A greedy answer needs none, and then equal prompts are one request."""
    if temperature == 0:
        return 0
    digest = hashlib.sha256(canonical([seed, number, prompt]).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def parameters(teacher: Offline, base: Path) -> float:
    """Parameters of an offline model, counted from the headers of its weights.

    Raises:
        SourceError: no safetensors weights; or a mixture of experts, whose active parameters no
            header says.
    """
    from safetensors import SafetensorError, safe_open

    folder = model_folder(teacher, base)
    config = json.loads((folder / "config.json").read_bytes())
    inner = config | config.get("text_config", {})
    if any(inner.get(word) for word in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise SourceError(
            f"teacher {teacher.model}: a mixture of experts uses only some of its parameters",
            hint="give the active ones as the step's `parameters`",
        )
    count = 0
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as weights:
                count += sum(_product(weights.get_slice(k).get_shape()) for k in weights.keys())  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise SourceError(
                f"teacher {teacher.model}: {path.name} cannot be read ({error})",
                hint="fetch the model again",
            ) from None
    return float(count)


def model_folder(teacher: Offline, base: Path) -> Path:
    """Folder of an offline model; a hub model is fetched into the machine's cache if need be.

    Raises:
        SourceError: when it is neither here nor there, or has no safetensors weights.
    """
    folder = local_folder(teacher, base)
    if folder is None:
        from huggingface_hub import snapshot_download

        try:
            folder = Path(
                snapshot_download(
                    teacher.model, revision=teacher.revision, allow_patterns=list(MODEL_FILES)
                )
            )
        except Exception as error:  # its errors are its client's, its own, OSError and ValueError
            raise _unknown(teacher, error) from error
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise SourceError(
            f"teacher {teacher.model}: no config.json with safetensors weights in {folder}",
            hint="save the model with safetensors; weights in pickles are never loaded",
        )
    return folder


def local_folder(teacher: Offline, base: Path) -> Path | None:
    """The model's folder, or None where it is a name on the hub."""
    folder = base / Path(teacher.model).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", teacher.model):
        raise SourceError(
            f"teacher {teacher.model}: no such folder (looked in {base})",
            hint="paths are relative to the sweep file",
        )
    return None


def _commit(teacher: Offline) -> str:
    if teacher.revision and re.fullmatch(r"[0-9a-f]{40}", teacher.revision):
        return teacher.revision
    from huggingface_hub import HfApi

    try:
        return str(HfApi().model_info(teacher.model, revision=teacher.revision).sha)
    except Exception as error:  # as above
        raise _unknown(teacher, error) from error


def _unknown(teacher: Offline, error: Exception) -> SourceError:
    return SourceError(
        f"teacher {teacher.model}: no such folder, and the hub does not answer for it:"
        f" {str(error).splitlines()[0] if str(error) else type(error).__name__}",
        hint="correct the path, or pin `revision` to a commit that is in the local cache",
    )


def _product(shape: Sequence[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count
