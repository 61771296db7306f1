"""A teacher behind a server that speaks OpenAI's protocol: `vllm serve`, or a provider's.

Requests go out side by side from one event loop, at most `parallel` at once. What may pass (the
server is busy or restarting, the connection broke, half an answer came) is tried again after
growing pauses; what will not (an unknown model, a refused key) ends the step with the server's own
words. Either way what was answered before is kept, so the same command goes on from there.

A model with a chat template is asked as a chat, any other for a completion. The first request
finds out which: a server says so when there is no template.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
from contextlib import suppress
from typing import Any

import httpx2

from anneal.curation.steps import Server
from anneal.curation.teacher import Answer, Request, Teacher
from anneal.errors import SourceError

TRIES = 8
"""About two minutes in all: a server may be restarting."""
FIRST_PAUSE_SECONDS = 1.0
"""Before the second try; then twice as long each time."""
LONGEST_PAUSE_SECONDS = 600.0
"""Where the server itself says when to come back."""
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Statuses that may be otherwise in a moment."""
LARGEST_BODY = 64 * 2**20
"""Bytes; no answer is near it."""
_CONTEXT = re.compile(r"context.{0,3}(length|window)|max_model_len", re.I)


class _Passing(Exception):
    """This try failed and the next may not; the text says how.

    Args:
        pause: seconds the server asks to wait.
    """

    def __init__(self, what: str, pause: float = 0.0) -> None:
        super().__init__(what)
        self.pause = pause


class _Refused(Exception):
    """The server will not answer this, however often it is asked."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class _GivenUp(Exception):
    """Not asked, since another request showed that there is no use."""


class ServedTeacher(Teacher):
    """Asks a server; see the module.

    Raises:
        SourceError: the variable that should hold the key is not set.
    """

    def __init__(self, settings: Server) -> None:
        self._settings = settings
        self._key = ""
        if settings.key_variable:
            self._key = os.environ.get(settings.key_variable, "")
            if not self._key:
                raise SourceError(
                    f"teacher {settings.url}: environment variable `{settings.key_variable}`,"
                    " which should hold its key, is not set",
                    hint=f"export {settings.key_variable}=...; or correct teacher.key_variable",
                )
        self._loop = asyncio.new_event_loop()
        self._client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=settings.timeout_seconds,
            limits=httpx2.Limits(max_connections=settings.parallel),
        )
        self._room = asyncio.Semaphore(settings.parallel)
        self._first = asyncio.Lock()
        self._failed = asyncio.Event()
        self._chat: bool | None = None
        self._tasks: dict[asyncio.Task[Answer], str] = {}

    def submit(self, key: str, request: Request) -> None:
        self._tasks[self._loop.create_task(self._answer(request))] = key

    def collect(self) -> list[tuple[str, Answer]]:
        done = self._wait(asyncio.FIRST_COMPLETED)
        if any(task.exception() for task in done):
            # what is under way is paid for: let it come in, begin nothing more
            self._failed.set()
            done = self._wait(asyncio.ALL_COMPLETED)
        good = [task for task in done if task.exception() is None]
        if not good:
            errors = [task.exception() for task in done]
            raise next(error for error in errors if error and not isinstance(error, _GivenUp))
        return [(self._tasks.pop(task), task.result()) for task in good]

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(self._closed())
        self._loop.close()

    def _wait(self, until: str) -> list[asyncio.Task[Answer]]:
        """The tasks that are done, in the order in which they were submitted."""
        self._loop.run_until_complete(asyncio.wait(self._tasks, return_when=until))
        return [task for task in self._tasks if task.done()]

    async def _closed(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    async def _answer(self, request: Request) -> Answer:
        async with self._room:
            if self._chat is None:
                async with self._first:
                    if self._chat is None:
                        return await self._persist(request)
            return await self._persist(request)

    async def _persist(self, request: Request) -> Answer:
        """Tries until there is an answer or no hope of one."""
        pause = FIRST_PAUSE_SECONDS
        for left in reversed(range(TRIES)):
            if self._failed.is_set():
                raise _GivenUp
            try:
                if self._chat is None:
                    return await self._find_out(request)
                return await self._ask(request, chat=self._chat)
            except _Refused as error:
                if error.status in (400, 413, 422) and _CONTEXT.search(error.message):
                    return Answer("", "context", 0, 0, 0.0)
                raise self._stopped(error) from None
            except _Passing as error:
                if not left:
                    raise SourceError(
                        f"teacher {self._settings.url}: {error} (tried {TRIES} times)",
                        hint="see that the server is up and teacher.url is right; run again:"
                        " what was answered is kept",
                    ) from None
                # spread out, so that requests that failed together do not return together
                wait = max(error.pause, pause * random.uniform(0.5, 1.5))  # noqa: S311
                with suppress(TimeoutError):  # or until another request has shown it is no use
                    await asyncio.wait_for(self._failed.wait(), min(wait, LONGEST_PAUSE_SECONDS))
                pause *= 2
        raise AssertionError("unreachable")

    async def _find_out(self, request: Request) -> Answer:
        """Answers the first request, and learns whether the model is one to chat with."""
        try:
            answer = await self._ask(request, chat=True)
        except _Refused as error:
            if error.status not in (404, 405, 501) and "chat template" not in error.message:
                raise
            try:
                answer = await self._ask(request, chat=False)
            except _Refused as second:
                raise (second if "chat template" in error.message else error) from None
            self._chat = False
        else:
            self._chat = True
        return answer

    async def _ask(self, request: Request, *, chat: bool) -> Answer:
        said: dict[str, Any] = {
            "model": self._settings.model,
            "max_tokens": request.max_output,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
        }
        if chat:
            said["messages"] = [{"role": "user", "content": request.prompt}]
        else:
            said["prompt"] = request.prompt
        url = f"{self._settings.url.rstrip('/')}/{'chat/completions' if chat else 'completions'}"
        try:
            async with self._client.stream("POST", url, json=said) as response:
                body = bytearray()
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > LARGEST_BODY:
                        raise _Passing(f"an answer of more than {LARGEST_BODY} bytes")
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise _Passing(f"{type(error).__name__} {error}".strip()) from None
        if response.status_code in PASSING:
            after = response.headers.get("retry-after", "")
            pause = float(after) if after.isdigit() else 0.0
            raise _Passing(f"status {response.status_code}: {self._shown(body)}", pause)
        if response.status_code != 200:
            raise _Refused(response.status_code, self._shown(body))
        return self._read(bytes(body), chat=chat)

    def _read(self, body: bytes, *, chat: bool) -> Answer:
        try:
            said = json.loads(body)
            choice, usage = said["choices"][0], said["usage"]
            text = (choice["message"]["content"] if chat else choice["text"]) or ""
            answer = Answer(
                # JSON can say half a surrogate pair, UTF-8 cannot
                text.encode(errors="replace").decode(),
                str(choice["finish_reason"])[:40],
                int(usage["prompt_tokens"]),
                int(usage["completion_tokens"]),
                0.0,
            )
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            wrong = f"{type(error).__name__}: {error}"
            raise _Passing(f"its answer is no completion ({wrong}): {self._shown(body)}") from None
        if answer.prompt_tokens < 0 or answer.output_tokens < 0:
            raise _Passing(f"its answer counts tokens below nothing: {self._shown(body)}")
        return answer

    def _shown(self, body: bytes | bytearray) -> str:
        """The server's words, short, on one line, without the key."""
        text = bytes(body[:4096]).decode(errors="replace")
        try:
            found = json.loads(text)["error"]
            text = str(found["message"] if isinstance(found, dict) else found)
        except (ValueError, LookupError, TypeError):
            pass
        text = " ".join(text.split())
        if self._key:
            text = text.replace(self._key, "***")
        return text[:300] or "(nothing)"

    def _stopped(self, error: _Refused) -> SourceError:
        settings = self._settings
        if error.status in (401, 403):
            asked = f"`{settings.key_variable}` holds" if settings.key_variable else "it may want"
            hint = f"{asked} a key: see teacher.key_variable"
        elif error.status == 404:
            hint = "correct teacher.model (a name that the server knows) or teacher.url (up to /v1)"
        else:
            hint = "correct teacher, or the step's settings"
        return SourceError(f"teacher {settings.url}, model {settings.model}: {error}", hint=hint)
