"""jax.jit with the options of the XLA compiler that make our networks faster."""

import functools
from collections.abc import Callable
from typing import Any

import jax

# YNNPACK for sums, Eigen for the rest (benchmarks/README.md). YNNPACK's weight gradient
# of a 3x3 convolution is two to six times slower than Eigen's; XLA's own loops for sums
# over batch and pixels, such as the gradients of biases, repeat what they sum.
_CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}

# Run once, compiled in a fraction of the time. Folding constants, XLA would work out
# the counters of all random numbers while it compiles.
_CPU_ONCE = {
    "xla_backend_optimization_level": "1",
    "xla_cpu_parallel_codegen_split_count": "1",
    "xla_cpu_use_fusion_emitters": "False",
    "xla_disable_hlo_passes": "constant_folding",
}


def jit(
    function: Callable | None = None, *, once: bool = False, **options: Any
) -> Callable:
    """`jax.jit` with our compiler options; also a decorator of module-level functions.

    The backend is first asked for when the function is called: modules can be imported
    before the processes of a run have found each other. What is static must be
    hashable and equal where it does the same; then equal calls share one program.

    Args:
      once: the program runs once, such as an initialisation: compile it quickly.
      options: of jax.jit, such as static_argnames, donate_argnames, out_shardings.
    """
    if function is None:
        return functools.partial(jit, once=once, **options)

    @functools.cache
    def compiled():
        ours = options_for_one_call() if once else compiler_options()
        return jax.jit(function, compiler_options=ours, **options)

    @functools.wraps(function)
    def call(*arguments, **keywords):
        return compiled()(*arguments, **keywords)

    call.lower = lambda *arguments, **keywords: compiled().lower(*arguments, **keywords)
    return call


@functools.cache
def options_for_one_call() -> dict[str, str] | None:
    """Returns compiler options for a program that runs once, such as initialisation."""
    return _on_cpu(_CPU_ONCE)


@functools.cache
def compiler_options() -> dict[str, str] | None:
    """Returns the options of `jit` on this backend.

    None where the defaults are best, and where this XLA does not know the option.
    """
    return _on_cpu(_CPU)


def _on_cpu(options):
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return dict(options)


def flops_on_cpu(function: Callable, *arguments: Any) -> float | None:
    """Floating-point operations of `function`, in the program that a CPU would run.

    The plugins of GPUs and TPUs do not count before they compile, and what they count
    after it leaves out their own kernels. None where there is no CPU backend, and for
    what has no program on a CPU, such as cuDNN's attention.
    """
    shapes = jax.eval_shape(lambda *arguments: arguments, *arguments)
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            lowered = jax.jit(function).lower(*shapes)
    except (RuntimeError, ValueError, NotImplementedError):
        return None
    return (lowered.cost_analysis() or {}).get("flops")
