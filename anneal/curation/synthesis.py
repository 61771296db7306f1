"""Synthesis: new documents written by a teacher from seed documents.

    seed -> stretch -> prompt -> request -> answer (kept) -> checks -> document

Requests run ahead of the documents: a window of them is with the teacher at any time, answers come
back in any order, and documents leave in the order of their seeds. So the same seeds give the same
documents whatever came first and however often the process was killed, as long as the answers are
the same; and those are kept (`answers`), the dear part of all this.

What is rejected is paid for like what is kept, and so is a first try that was cut off. Tokens are
the teacher's own, as it counts them. Answers that were found in the cache count in a source's cost
as on the day they were bought: what a source costs does not depend on what lies around.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anneal.curation.acceptance import Rejected, accepted, repetition
from anneal.curation.answers import Answers
from anneal.curation.chain import Context, Tally
from anneal.curation.recipes import Recipe, stretch
from anneal.curation.steps import Offline, Server, Step, Synthesize
from anneal.curation.teacher import (
    Answer,
    Request,
    Teacher,
    local_folder,
    parameters,
    request_seed,
    settled,
    start,
    teacher_address,
)
from anneal.sources.documents import Document
from anneal.sources.files import seeded_order
from anneal.store import Store

OFFLINE_WINDOW = 1024
"""Requests handed to an engine ahead of the one whose document is next: several full batches."""
SERVER_WINDOW = 4
"""The same for a server, as a multiple of its `parallel`."""
HOW = {"url", "key_variable", "parallel", "timeout_seconds", "tensor_parallel", "revision"}
"""Settings of a teacher that change nothing of what is written."""


def synthesize(
    stream: Iterable[Document], step: Synthesize, context: Context, tally: Tally
) -> Iterator[Document]:
    """Streams what the teacher made of the seeds and what stood the checks.

    A document's id is its seed's and a number; what else is known of it, such as its licence, is
    the seed's. So is the group, and a held-out split keeps both on one side.

    Raises:
        SourceError: the template or the teacher cannot be used; see `recipes` and `teacher`.
        StoreError: the disk is full.
    """
    recipe = Recipe(step.recipe, step.variables, context.base)
    teacher = settled(step.teacher, context.base)
    where = teacher_address(teacher, context.base, context.store)
    size = _size(step, teacher, context.base)
    paid = _Paid()
    with closing(Answers(context.store.cache("synthesis") / where)) as answers:
        desk = _Desk(step.model_copy(update={"teacher": teacher}), where, answers, context.base)
        with closing(desk):
            for ask in desk.carried_out(_asks(stream, step, recipe, context, tally), paid):
                try:
                    text = _accepted(ask, step)
                except Rejected as reason:
                    tally.drop(ask.seed, str(reason), answer=ask.number)
                    paid.rejected[str(reason)] += 1
                    continue
                paid.accepted += 1
                paid.accepted_tokens += ask.answered.output_tokens
                yield dataclasses.replace(
                    ask.seed,
                    id=f"{ask.seed.id}#{ask.number}",
                    text=text,
                    origin=f"{ask.seed.origin} ({recipe.name})",
                )
            tally.seconds_fixed = desk.seconds_to_start
    _account(step, recipe, where, size, paid, tally)


def planned(
    steps: Sequence[Step], base: Path, store: Store
) -> tuple[tuple[Step, ...], list[dict[str, Any]]]:
    """Steps with their teachers pinned; and what each synthesis among them is identified by.

    Template and model enter by content. Where a model is served and how, by how many devices and
    with how many requests at once, changes nothing that is made; prices change what it cost.

    Raises:
        SourceError: a template or variables that cannot be used, a model that is not there.
    """
    pinned, identities = list(steps), []
    for place, step in enumerate(steps):
        if isinstance(step, Synthesize):
            teacher = settled(step.teacher, base)
            # a plan fetches no weights: a hub model is counted when it is used
            if isinstance(teacher, Offline) and local_folder(teacher, base):
                _size(step, teacher, base)
            pinned[place] = step.model_copy(update={"teacher": teacher})
            fields = step.model_dump(exclude={"teacher": HOW | {"model"}})
            fields["recipe"] = Recipe(step.recipe, step.variables, base).address
            fields["teacher"]["content"] = teacher_address(teacher, base, store)
            identities.append(fields)
    return tuple(pinned), identities


def _size(step: Synthesize, teacher: Offline | Server, base: Path) -> float | None:
    """Parameters of the teacher: as declared, or counted; None of a server's that nobody told."""
    if step.parameters is None and isinstance(teacher, Offline):
        return parameters(teacher, base)
    return step.parameters


@dataclass(eq=False)
class _Ask:
    """One document asked for."""

    seed: Document
    number: int
    request: Request
    answer: Answer | None = None
    """The last there is; None while it is waited for."""

    @property
    def answered(self) -> Answer:
        assert self.answer is not None
        return self.answer


@dataclass
class _Paid:
    """What was asked and had, for the step's record."""

    requests: int = 0
    found: int = 0
    """Of them, already answered before this process."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    accepted: int = 0
    accepted_tokens: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    keys: set[int] = field(default_factory=set)
    """Requests that are counted; equal ones are one."""

    def count(self, key: str, answer: Answer, *, found: bool) -> None:
        if int(key, 16) not in self.keys and answer.finish != "context":
            self.keys.add(int(key, 16))
            self.requests += 1
            self.found += found
            self.prompt_tokens += answer.prompt_tokens
            self.output_tokens += answer.output_tokens
            self.seconds += answer.seconds


class _Desk:
    """Where documents asked for wait: answered from the cache, or by the teacher, in order."""

    def __init__(self, step: Synthesize, where: str, answers: Answers, base: Path) -> None:
        self._step = step
        self._where = where
        self._answers = answers
        self._base = base
        self._teacher: Teacher | None = None
        self._waiting: dict[str, list[_Ask]] = {}
        self.seconds_to_start = 0.0

    def carried_out(self, asks: Iterator[_Ask], paid: _Paid) -> Iterator[_Ask]:
        """The asks in their order, each with its last answer."""
        teacher = self._step.teacher
        window = SERVER_WINDOW * teacher.parallel if isinstance(teacher, Server) else OFFLINE_WINDOW
        line: deque[_Ask] = deque()
        more = True
        while more or line:
            while more and len(line) < window:
                ask = next(asks, None)
                if ask is None:
                    more = False
                else:
                    line.append(ask)
                    self._put(ask, paid)
            while line and line[0].answer is not None:
                yield line.popleft()
            if line and (not more or len(line) >= window):
                self._wait(paid)

    def close(self) -> None:
        if self._teacher is not None:
            self._teacher.close()

    def _put(self, ask: _Ask, paid: _Paid) -> None:
        key = ask.request.key(self._where)
        if key in self._waiting:
            self._waiting[key].append(ask)
            return
        answer = self._answers.get(key)
        if answer is not None:
            paid.count(key, answer, found=True)
            self._take(ask, answer, paid)
            return
        if self._teacher is None:
            self._teacher = start(self._step.teacher, self._base)
            self.seconds_to_start = self._teacher.seconds_to_start
        self._waiting[key] = [ask]
        self._teacher.submit(key, ask.request)

    def _wait(self, paid: _Paid) -> None:
        assert self._teacher is not None
        come = self._teacher.collect()
        # what never began cost nothing, and may fit when the server is set up otherwise
        self._answers.add((k, a) for k, a in come if a.finish != "context")
        for key, answer in come:
            paid.count(key, answer, found=False)
            for ask in self._waiting.pop(key):
                self._take(ask, answer, paid)

    def _take(self, ask: _Ask, answer: Answer, paid: _Paid) -> None:
        """Gives an ask its answer, or asks again with more room where the answer was cut off."""
        first = ask.request.max_output == self._step.max_output
        # shorter than it might be: it reached the end of the context, and would again
        cut = answer.finish == "length" and answer.output_tokens >= ask.request.max_output
        if first and cut and repetition(answer.text) <= self._step.max_repetition:
            ask.request = dataclasses.replace(ask.request, max_output=2 * self._step.max_output)
            self._put(ask, paid)
        else:
            ask.answer = answer


def _asks(
    stream: Iterable[Document], step: Synthesize, recipe: Recipe, context: Context, tally: Tally
) -> Iterator[_Ask]:
    """What to ask of each seed, `per_seed` times."""
    seeds = (_seed(document, step) for document in stream)
    drawn: Iterable[tuple[Document, list[str]]] = seeds
    total = 0
    if step.max_seeds is not None:
        drawn = _drawn(seeds, step.max_seeds, step.seed, tally)
        total = len(drawn)
    for done, (seed, stretches) in enumerate(drawn):
        if total:
            context.report(done, total)
        for number, text in enumerate(stretches):
            prompt = recipe.prompt(dataclasses.replace(seed, text=text))
            draw = request_seed(step.seed, number, prompt, step.temperature)
            yield _Ask(
                seed,
                number,
                Request(prompt, step.max_output, step.temperature, step.top_p, draw),
            )


def _seed(document: Document, step: Synthesize) -> tuple[Document, list[str]]:
    """A seed without its text, and what each prompt shows of it: many are held at once."""
    content = hashlib.sha256(document.text.encode()).hexdigest()
    shown = [
        stretch(document.text, step.seed_tokens, f"{step.seed}/{number}/{content}".encode())
        for number in range(step.per_seed)
    ]
    # a document without a group is split by its text (`held_out`), and so is what it leads to
    return dataclasses.replace(document, text="", group=document.group or content), shown


def _drawn(
    seeds: Iterable[tuple[Document, list[str]]], count: int, seed: int, tally: Tally
) -> list[tuple[Document, list[str]]]:
    """`count` of the seeds, those that are first in a seeded order."""
    heap: list[tuple[int, int, Document, list[str]]] = []
    for place, (document, shown) in enumerate(seeds):
        order = int.from_bytes(seeded_order(document.id, str(seed)), "big")
        # the largest of those kept is on top; places differ, so documents are never compared
        row = (-order, -place, document, shown)
        if len(heap) < count:
            heapq.heappush(heap, row)
        else:
            tally.drop(heapq.heappushpop(heap, row)[2], "seed not drawn")
    return [(document, shown) for _, _, document, shown in sorted(heap, reverse=True)]


def _accepted(ask: _Ask, step: Synthesize) -> str:
    """The document in the answer; `Rejected` with the reason otherwise."""
    answer = ask.answered
    if answer.finish == "context" and ask.request.max_output == step.max_output:
        raise Rejected("does not fit the teacher's context")
    if answer.finish in ("length", "context"):
        degenerate = repetition(answer.text) > step.max_repetition
        raise Rejected("repeats itself" if degenerate else "truncated")
    if answer.finish != "stop":
        raise Rejected(f"ended by {answer.finish}")
    return accepted(answer.text, step.parse, step.max_repetition)


def _account(
    step: Synthesize, recipe: Recipe, where: str, size: float | None, paid: _Paid, tally: Tally
) -> None:
    """Cost and evidence, of everything that was asked."""
    teacher = step.teacher
    tally.flops = 2.0 * (size or 0.0) * (paid.prompt_tokens + paid.output_tokens)
    if isinstance(teacher, Server):
        tally.usd = (
            paid.prompt_tokens * teacher.usd_per_million_prompt
            + paid.output_tokens * teacher.usd_per_million_output
        ) / 1e6
    else:
        tally.seconds = paid.seconds
    per_token = 1.0 / max(1, paid.accepted_tokens)
    asked = paid.accepted + sum(paid.rejected.values())
    tally.notes |= {
        "teacher": f"{teacher.kind}: {teacher.model}",
        "teacher_address": where,
        "recipe": recipe.name,
        "recipe_template": recipe.text,
        "recipe_variables": ", ".join(f"{k}={v}" for k, v in sorted(recipe.variables.items())),
        "answers": asked,
        "answers_accepted": paid.accepted,
        "acceptance_rate": paid.accepted / max(1, asked),
        "answers_rejected": ", ".join(f"{n} {why}" for why, n in sorted(paid.rejected.items())),
        "requests": paid.requests,
        "requests_found_in_cache": paid.found,
        "prompt_tokens": paid.prompt_tokens,
        "output_tokens": paid.output_tokens,
        "accepted_tokens": paid.accepted_tokens,
        "flops_per_accepted_token": tally.flops * per_token if size else "unknown: no `parameters`",
        "usd_per_accepted_token": tally.usd * per_token,
    }
    if tally.seconds is not None:
        tally.notes["device_seconds_per_accepted_token"] = tally.seconds * per_token
