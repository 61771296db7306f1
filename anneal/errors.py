"""What can go wrong, said so that the person reading it can act.

Every error a user can cause is an `AnnealError`: it names what was being done, where, what was
found there and, as a hint, what to do. `__main__` prints it without a traceback and exits with
status 2. Anything else that is raised is a bug in `anneal` and keeps its traceback.
"""

from __future__ import annotations


class AnnealError(Exception):
    """An error of the user's making, or of the user's machine.

    Args:
        what: one line, "what, where: got": ``source `math`: 64 tokens asked, 41 exist``.
        hint: one line that says what to do about it; empty when nothing can be done.
    """

    exit_code = 2

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}\nhint: {self.hint}" if self.hint else self.what


class SettingsError(AnnealError):
    """A sweep file or an override that cannot be understood."""


class SourceError(AnnealError):
    """A source or target whose documents are missing, unreadable or unusable."""


class PlanError(AnnealError):
    """A plan that asks for more than exists or more than is allowed."""


class StoreError(AnnealError):
    """A store that cannot be written, read or shared."""


class LawError(AnnealError):
    """A table of results from which no law can be fitted."""


class TableError(AnnealError):
    """A table of results, or the file of costs beside it, that cannot be taken as it stands."""


class TrainingError(AnnealError):
    """A run that cannot be started as specified: missing base, unfit tokenizer, bad shards."""
