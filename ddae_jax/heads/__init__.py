"""What is trained on features, by the name that config.probe.classifier gives it."""

from collections.abc import Callable

from ddae_jax.errors import UserError
from ddae_jax.heads.attentive import AttentiveHead
from ddae_jax.heads.fixed import FixedHead, Logistic, NearestNeighbours, Ridge
from ddae_jax.heads.linear import LINEAR, Kind
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


def register_head(name: str, make: Callable[[ProbeSettings], FixedHead]) -> None:
    """Makes a head of another package known to configs, as `name`.

    Args:
      make: gives the head under the settings of the probe.

    Raises:
      UserError: the name is taken.
    """
    taken = name in TRAINED_HEADS or FIXED_HEADS.get(name, make) is not make
    if taken:
        raise UserError(f"there is a head {name!r} already")
    FIXED_HEADS[name] = make
