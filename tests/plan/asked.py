"""Full runs as tests ask for them, over four sources of a million tokens."""

from anneal.plan.budget import Supply
from anneal.plan.lay_out import lay_out
from anneal.plan.pretraining import PhaseAsked, Pretraining

KINDS = {"prose": "general", "books": "high_quality", "web": "filtered", "made": "synthetic"}


def supplies(**tokens) -> dict[str, Supply]:
    sizes = dict.fromkeys(KINDS, 1_000_000) | tokens
    return {
        name: Supply(name=name, kind=kind, content=name, tokens=sizes[name], max_epochs=4)
        for name, kind in KINDS.items()
    }


def asked(*phases: PhaseAsked, **more) -> Pretraining:
    return Pretraining(phases=phases, **more)


def bought(name="main", **more) -> PhaseAsked:
    return PhaseAsked(name=name, mixture="allocation", batch=4, sequence=64, **more)


def fixed(name="first", tokens=64_000, mixture="replay", **more) -> PhaseAsked:
    return PhaseAsked(name=name, mixture=mixture, tokens=tokens, batch=4, sequence=64, **more)


def plan(ask, allocated=None, *, share=0.25, stock=None, **more):
    return lay_out(
        ask,
        supplies=stock or supplies(),
        replay="prose",
        replay_share=share,
        allocated=allocated,
        **more,
    )


def tokens_by(laid, source) -> dict[str, int]:
    return {p.name: part.tokens for p in laid.phases for part in p.mixture if part.source == source}
