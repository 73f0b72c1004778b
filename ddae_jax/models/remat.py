"""What the forward pass keeps of a block for the backward pass, by name."""

from typing import Any

import flax.linen as nn
import jax

from ddae_jax.settings.fields import setting

KEEP_ALL = "none"
_POLICIES = jax.checkpoint_policies
POLICIES = {
    "products": _POLICIES.dots_saveable,
    "linear": _POLICIES.dots_with_no_batch_dims_saveable,
    "full": _POLICIES.nothing_saveable,
}
"""Name -> what is kept inside a block; its inputs are kept always.

"products" keeps the results of matrix products and convolutions; "linear" of those
without batch axes alone, which leaves out attention's; "full" keeps nothing.
"""


def remat_setting() -> Any:
    """Declares the field `remat`."""
    return setting(
        KEEP_ALL,
        "what blocks recompute in the backward pass, to save memory: none; all but "
        "products (of matrices, convolutions); all but linear maps; full: everything",
        choices=(KEEP_ALL, *POLICIES),
    )


def rematerialised(
    block: type[nn.Module], name: str, static_argnums: tuple[int, ...] = ()
) -> type[nn.Module]:
    """Returns the class of blocks that recompute as the policy `name` says.

    Args:
      static_argnums: of the block's `__call__`, counted from 1: its flags.
    """
    if name == KEEP_ALL:
        return block
    return nn.remat(block, policy=POLICIES[name], static_argnums=static_argnums)
