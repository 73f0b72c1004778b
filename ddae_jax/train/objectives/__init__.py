"""Terms of the training loss beside the denoising loss, by the name of their config."""

import dataclasses
import functools
from typing import Any

from ddae_jax.errors import UserError
from ddae_jax.runtime.registry import check_class
from ddae_jax.settings import fields
from ddae_jax.train.objectives.alignment import Alignment
from ddae_jax.train.objectives.base import Objective
from ddae_jax.train.objectives.contrastive import Contrastive
from ddae_jax.train.objectives.dispersive import Dispersive
from ddae_jax.train.objectives.self_alignment import SelfAlignment

OBJECTIVES: dict[str, type[Objective]] = {
    "contrastive": Contrastive,
    "dispersive": Dispersive,
    "self_alignment": SelfAlignment,
    "alignment": Alignment,
}
"""Name in config.objectives -> frozen dataclass; its fields are the config's fields."""


def register_objective(name: str, objective: type[Objective]) -> None:
    """Makes an objective known to configs, as `objectives.name`.

    Raises:
      UserError: the name belongs to another class, or the class is no whole
        `Objective`.
    """
    check_class("objective", name, objective, Objective, OBJECTIVES)
    given = set()
    if "__dataclass_fields__" in vars(objective):
        given = set(fields.declared(objective))
    if missing := ", ".join(sorted({"on", "weight", "warmup"} - given)):
        raise UserError(
            f"objective {name!r}: {objective.__name__} is no dataclass with {missing}"
        )
    if objective.__hash__ is None:
        raise UserError(f"objective {name!r}: {objective.__name__} is not frozen")
    OBJECTIVES[name] = objective


def section() -> type:
    """The dataclass of config.objectives: one field per objective, by its name."""
    return _section(tuple(OBJECTIVES.items()))


def chosen(settings: Any) -> tuple[tuple[str, Objective], ...]:
    """(name, objective) of those that are on, of an instance of `section`."""
    names = fields.sections(type(settings))  # others may be registered by now
    found = ((name, getattr(settings, name)) for name in names)
    return tuple((name, objective) for name, objective in found if objective.on)


@functools.cache
def _section(known):
    parts = [(name, cls, cls()) for name, cls in known]
    return dataclasses.make_dataclass("ObjectivesSettings", parts, frozen=True)
