"""float64 in one place, by the name that each version of jax has for it."""

import jax


def float64():
    """A context in which jax computes in float64."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # before jax 0.8

    return enable_x64(True)
