"""The file of costs: what exists of each source, what it costs, and how much there is to spend.

    budget: {tokens: 4e9}              # or usd, or flops: for acquisition and training together
    parameters: 1.3e9                  # of the model; or flops_per_trained (6 x parameters)
    usd_per_hour: 2.5                  # of one device, and what it does, in FLOPs a second: with
    flops_per_second: 4e14             # these two training has a price in USD
    replay: 0.25                       # share of trained tokens that is replay, on top of sources
    sources:
      math:
        available: 1.2e9               # unique tokens that exist
        max_epochs: 8                  # most passes, 4 where nothing is said
        usd_fixed: 500                 # paid once if any of it is bought
        usd_per_billion_tokens: 40     # or usd_per_token, of unique tokens
        usd_tiers: [[1e8, 0], [1e9, 2e-7]]  # a rising price besides: tokens, USD for each of them
        flops_per_token: 0             # and flops_fixed
        licence: research              # a licence group, by any name
    exclude_licences: [research]       # groups of which nothing may be bought
    current: {math: 0.3, web: 0.7}     # today's mix, to compare with
    prior: {math: 0.3, web: 0.7}       # a mix to stay near, of every source that may be bought:
    prior_limit: 0.2                   # at most so far, KL(shares || prior) in nats
    least_tokens: 1e9                  # source tokens that must be bought at least
    guards: {prose: 0.02}              # how much worse than the base a guard may get
    noise: 0.004                       # seed SD of a score, where the table has no repeats
    confidence: 0.9                    # with which guards are kept

Budget tokens are source tokens: replay comes on top. All money is US dollars: another currency
anywhere is an error, since a rate would be a guess. `control`, listed as a source, is more replay.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from anneal.errors import TableError
from anneal.plan.budget import Prices
from anneal.plan.flops import training_flops
from anneal.sources.tiers import Tier, Tiers, steps
from anneal.values import Value

MAX_EPOCHS = 4.0
"""Passes where nothing is said: up to about 4 are nearly worth new data (2305.16264)."""
_CURRENCIES = re.compile(
    r"(?<![a-z])(usd|eur|gbp|cny|rmb|jpy|inr|chf|cad|aud|krw|brl|sek|nok|dkk|pln|sgd|ils|mxn)(?![a-z])",
    re.IGNORECASE,
)
_SIGNS = {"$": "usd", "€": "eur", "£": "gbp", "¥": "jpy", "₹": "inr", "₩": "krw"}


class SourceCosts(Value):
    """One source: how much exists and what it costs."""

    available: float = Field(ge=1)
    """Unique tokens that exist."""
    max_epochs: float = Field(MAX_EPOCHS, gt=0)
    usd_fixed: float = Field(0.0, ge=0)
    usd_per_token: float | None = Field(None, ge=0)
    usd_per_billion_tokens: float | None = Field(None, ge=0)
    usd_tiers: Tiers = ()
    """A rising price besides: (tokens, USD per token), cheapest first; the last holds beyond."""
    flops_fixed: float = Field(0.0, ge=0)
    flops_per_token: float = Field(0.0, ge=0)
    licence: str = ""

    @model_validator(mode="after")
    def _one_price(self) -> SourceCosts:
        if self.usd_per_token is not None and self.usd_per_billion_tokens is not None:
            raise ValueError("give usd_per_token or usd_per_billion_tokens, not both")
        if int(self.available * self.max_epochs) < 1:
            raise ValueError("available x max_epochs is less than one token")
        return self

    @property
    def usd_each(self) -> float:
        """USD per unique token, tiers apart."""
        if self.usd_per_token is not None:
            return self.usd_per_token
        return (self.usd_per_billion_tokens or 0.0) / 1e9

    def prices(self, axis: Literal["usd", "flops"]) -> tuple[Tier, ...]:
        """Steps of the price of a unique token on an axis."""
        if axis == "flops":
            return steps((), self.flops_per_token)
        return steps(self.usd_tiers, self.usd_each)

    @property
    def cap(self) -> int:
        """Most tokens that may be trained on."""
        return int(int(self.available) * self.max_epochs)


class RealBudget(Value):
    """How much there is to spend, in one unit."""

    tokens: float | None = Field(None, ge=1)
    usd: float | None = Field(None, gt=0)
    flops: float | None = Field(None, gt=0)

    @property
    def axis(self) -> Literal["tokens", "usd", "flops"]:
        """What the budget is given in."""
        return "tokens" if self.tokens else "usd" if self.usd else "flops"

    @property
    def amount(self) -> float:
        """In units of the axis; whole where they are tokens."""
        return float(int(self.tokens)) if self.tokens else float(self.usd or self.flops or 0.0)

    @model_validator(mode="after")
    def _one(self) -> RealBudget:
        if sum(v is not None for v in (self.tokens, self.usd, self.flops)) != 1:
            raise ValueError("give exactly one of tokens, usd and flops")
        return self


class Costs(Value):
    """The whole file."""

    budget: RealBudget
    sources: dict[str, SourceCosts] = Field(min_length=1)
    replay: float = Field(0.0, ge=0, lt=1)
    parameters: float | None = Field(None, ge=1)
    flops_per_trained: float | None = Field(None, gt=0)
    usd_per_hour: float | None = Field(None, ge=0)
    flops_per_second: float | None = Field(None, gt=0)
    noise: float | None = Field(None, gt=0)
    current: dict[str, float] = {}
    prior: dict[str, float] = {}
    """Shares of source tokens."""
    prior_limit: float | None = Field(None, ge=0)
    """Nats."""
    least_tokens: float = Field(1.0, ge=1)
    guards: dict[str, float] = {}
    """Score by which each guard may exceed the base's."""
    confidence: float = Field(0.9, gt=0, lt=1)
    exclude_licences: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _agrees(self) -> Costs:
        if self.parameters is not None and self.flops_per_trained is not None:
            raise ValueError("give parameters or flops_per_trained, not both")
        if (self.usd_per_hour is None) != (self.flops_per_second is None):
            raise ValueError("usd_per_hour and flops_per_second price training together: give both")
        if self.usd_per_hour is not None and not self.flops_each:
            raise ValueError("usd_per_hour prices FLOPs: give parameters or flops_per_trained too")
        if self.budget.axis == "usd" and not self.usd_each:
            raise ValueError(
                "a budget in USD needs the price of training: give parameters, usd_per_hour and "
                "flops_per_second"
            )
        if self.budget.axis == "flops" and not self.flops_each:
            raise ValueError("a budget in FLOPs needs parameters or flops_per_trained")
        if self.current and not (
            all(v >= 0 for v in self.current.values())
            and abs(sum(self.current.values()) - 1) <= 0.01
        ):
            raise ValueError(f"current holds shares that sum to 1, got {self.current}")
        if bool(self.prior) != (self.prior_limit is not None):
            raise ValueError("prior and prior_limit say how near to which mix: give both")
        bought = {n for n, s in self.sources.items() if s.licence not in self.exclude_licences}
        near = set(self.prior) == bought and all(v > 0 for v in self.prior.values())
        if self.prior and not near:
            raise ValueError(
                "prior gives every source that may be bought a share above 0 "
                f"({', '.join(sorted(bought))}), got {self.prior}"
            )
        unknown = [n for n in self.exclude_licences if n not in self.licences]
        if unknown:
            raise ValueError(f"exclude_licences: no source has the licence `{unknown[0]}`")
        return self

    @property
    def licences(self) -> tuple[str, ...]:
        """Names of the licence groups."""
        return tuple(dict.fromkeys(s.licence for s in self.sources.values() if s.licence))

    @property
    def flops_each(self) -> float:
        """FLOPs of training on one token; 0 where the file does not say."""
        if self.flops_per_trained is not None:
            return self.flops_per_trained
        return training_flops(1, self.parameters) if self.parameters else 0.0

    @property
    def usd_each(self) -> float:
        """USD of training on one token; 0 where the file does not say."""
        if self.usd_per_hour is None or self.flops_per_second is None:
            return 0.0
        prices = Prices(usd_per_hour=self.usd_per_hour, flops_per_second=self.flops_per_second)
        return prices.training_usd(self.flops_each)


def read_costs(path: Path) -> Costs:
    """Reads a file of costs.

    Raises:
        TableError: no file, no YAML, an unknown or doubtful key, another currency, a bad value.
    """
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise TableError(f"{path}: no such file", hint="see --help for what it holds") from None
    except OSError as error:
        raise TableError(
            f"{path}: cannot be read ({error.strerror})", hint="give a YAML file"
        ) from None
    except UnicodeDecodeError as error:
        raise TableError(
            f"{path.name}: not UTF-8 (byte {error.start})", hint="save it as UTF-8"
        ) from None
    try:
        # a subclass of the safe loader: it makes plain values alone
        plain = yaml.load(content, Loader=_Strict)  # noqa: S506
    except yaml.YAMLError as error:
        told = " ".join(str(error).split())
        raise TableError(f"{path.name}: {told[:200]}", hint="see --help for an example") from None
    if not isinstance(plain, dict):
        raise TableError(f"{path.name}: no mapping of keys to values", hint="see --help")
    currencies = _currencies(plain, "")
    foreign = {code: where for code, where in currencies.items() if code != "usd"}
    if foreign:
        (code, where), *_ = foreign.items()
        also = f" and usd (`{currencies['usd']}`)" if "usd" in currencies else ""
        raise TableError(
            f"{path.name}: `{where}`: costs in {code}{also}: one currency at a time",
            hint="convert everything to US dollars",
        )
    try:
        return Costs.model_validate(plain)
    except ValidationError as error:
        raise _explained(error, path.name) from None


class _Strict(yaml.SafeLoader):
    """Refuses a key that stands twice, which YAML would let the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str):
                raise yaml.MarkedYAMLError(
                    problem=f"the key {name!r} is no text: quote it", problem_mark=key.start_mark
                )
            if name in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key `{name}` stands twice", problem_mark=key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def _currencies(plain: Any, where: str) -> dict[str, str]:
    """Currencies named in keys and values, each with the first place that names it."""
    found: dict[str, str] = {}
    items = plain.items() if isinstance(plain, dict) else ()
    for key, value in items:
        place = f"{where}.{key}".lstrip(".")
        if isinstance(value, dict):
            inside = _currencies(value, place)
        else:
            told = f"{key} {value}" if isinstance(value, str) else str(key)
            names = [m[1].lower() for m in _CURRENCIES.finditer(told.replace("_", " "))]
            names += [code for sign, code in _SIGNS.items() if sign in told]
            inside = dict.fromkeys(names, place) if not _named(key) else {}
        found = inside | found
    return found


def _named(key: object) -> bool:
    """Keys whose values are names of the user's own."""
    return key in {"licence", "exclude_licences"}


def _explained(error: ValidationError, name: str) -> TableError:
    """The first of pydantic's complaints in our words."""
    problems = error.errors(include_url=False)
    # a mistyped key is also a missing one: the typing is what there is to mend
    first = min(problems, key=lambda p: p["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in first["loc"])
    got = repr(first.get("input"))[:80]
    more = f"; {len(problems) - 1} more problem(s) in this file" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        inside = first["loc"][0]
        kind: type[Value] = Costs
        if len(first["loc"]) > 1:
            kind = SourceCosts if inside == "sources" else RealBudget
        close = difflib.get_close_matches(key, kind.model_fields, n=1, cutoff=0.5)
        guess = f"did you mean `{close[0]}`?" if close else f"keys: {', '.join(kind.model_fields)}"
        return TableError(f"{name}: unknown key `{where}` (got {got})", hint=guess + more)
    if first["type"] == "missing":
        return TableError(f"{name}: `{where}` is missing", hint=f"add it{more}")
    told = first["msg"].removeprefix("Value error, ")
    at = f"`{where}`: " if where else ""
    shown = "" if first["type"] == "value_error" else f" (got {got})"
    return TableError(f"{name}: {at}{told}{shown}", hint=f"correct the value{more}")
