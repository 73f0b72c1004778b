"""Options of the XLA compiler that make this project's networks faster."""

import functools

import jax

# XLA:CPU gives convolutions to YNNPACK, whose weight gradient of a 3x3 convolution is
# two to six times slower than Eigen's. Naming only DOT leaves convolutions to Eigen
# (benchmarks/README.md).
_CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}


# Run once, compiled in half the time.
_CPU_ONCE = {"xla_backend_optimization_level": "0"}


def options_for_one_call() -> dict[str, str] | None:
    """Returns compiler options for a program that runs once, such as initialisation."""
    return dict(_CPU_ONCE) if jax.default_backend() == "cpu" else None


@functools.cache
def options() -> dict[str, str] | None:
    """Returns what to pass as `jax.jit(..., compiler_options=...)` on this backend.

    None where the defaults are best, and where this XLA does not know the option.
    """
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda: 0, compiler_options=_CPU).lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return dict(_CPU)
