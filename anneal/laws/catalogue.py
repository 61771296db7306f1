"""The table of every surface by name."""

from anneal.laws.annealed_laws import ANNEALED_SURFACES
from anneal.laws.links import LINK_SURFACES
from anneal.laws.mixture_laws import MIXTURE_LAWS, additive_sized
from anneal.laws.repeat_laws import REPEAT_SURFACES
from anneal.laws.replay_laws import REPLAY_LAWS
from anneal.laws.schedule_laws import SCHEDULE_SURFACES
from anneal.laws.size_laws import SIZE_SURFACES
from anneal.laws.surfaces import Surface

SURFACES: dict[str, Surface] = {
    **SIZE_SURFACES,
    **REPEAT_SURFACES,
    **SCHEDULE_SURFACES,
    **ANNEALED_SURFACES,
    **LINK_SURFACES,
    **MIXTURE_LAWS,
    **REPLAY_LAWS,
    additive_sized.name: additive_sized,
}
"""Every surface by name; a new law is a new row of one of these tables."""
