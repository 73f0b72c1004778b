"""What is trained on features, by the name that config.probe.classifier gives it."""

from collections.abc import Callable

from ddae_jax.errors import UserError
from ddae_jax.heads.attentive import AttentiveHead
from ddae_jax.heads.fixed import FixedHead, Logistic, NearestNeighbours, Ridge
from ddae_jax.heads.linear import LINEAR, Kind
from ddae_jax.settings.fields import unknown
from ddae_jax.settings.probe import ProbeSettings

TRAINED_HEADS: dict[str, Callable[[ProbeSettings], Kind]] = {
    "adam": lambda probe: LINEAR,
    "attentive": lambda probe: AttentiveHead(
        probe.attentive_heads, probe.attentive_queries
    ),
}
"""Name -> head that Adam trains, of augmented images under fresh noise."""

FIXED_HEADS: dict[str, Callable[[ProbeSettings], FixedHead]] = {
    "logistic": lambda probe: Logistic(probe.l2),
    "ridge": lambda probe: Ridge(probe.ridge_l2),
    "knn": lambda probe: NearestNeighbours(
        probe.knn_k, probe.knn_metric, probe.knn_temperature
    ),
}
"""Name -> head that is fitted to features that stay as they are."""


def register_head(
    name: str, make: Callable[[ProbeSettings], FixedHead | Kind], trained: bool = False
) -> None:
    """Makes a head of another package known to configs, as `name`.

    Args:
      make: gives the head under the settings of the probe: a FixedHead.
      trained: Adam trains it instead; `make` gives a `linear.Kind`.

    Raises:
      UserError: the name is taken.
    """
    heads, others = FIXED_HEADS, TRAINED_HEADS
    if trained:
        heads, others = others, heads
    if name in others or heads.get(name, make) is not make:
        raise UserError(f"there is a head {name!r} already")
    heads[name] = make


def check(probe: ProbeSettings) -> None:
    """Raises a UserError where there is no such head, or it cannot do as it is told."""
    name, heads = probe.classifier, (*TRAINED_HEADS, *FIXED_HEADS)
    if name not in heads:
        raise UserError(unknown("config.probe.classifier", name, heads))
    if name in FIXED_HEADS:
        return
    if probe.draws > 1:
        raise UserError(
            f"config.probe.draws: {probe.draws}, but {name} draws noise anew for every "
            f"batch; {', '.join(FIXED_HEADS)} average over draws"
        )
    if probe.concat and not TRAINED_HEADS[name](probe).pooled:
        raise UserError(
            f"config.probe.concat: {probe.concat!r} needs pooled taps, and {name} "
            "takes positions"
        )
