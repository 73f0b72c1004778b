"""Compile time, FLOPs, time and memory of every network, forward and in training.

    python -m benchmarks.models --network=unet-ddpm,dit-b2 --batch=8 --rounds=5

DiT-B/2 also runs beside diffusers' model of that size, turn by turn. On a GPU:

    python -m benchmarks.models --network=dit-xl2 --precision=bfloat16 --batch=64

`share` is the training step's FLOPs a second over the rate of one large matrix product,
measured in the same run. The last line is JSON.
"""

import functools
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from benchmarks import timing
from benchmarks.networks import NAMED
from ddae_jax.models.remat import KEEP_ALL, POLICIES
from ddae_jax.runtime import compiler
from ddae_jax.train import optimizers
from ddae_jax.train import state as train_state
from ddae_jax.train.objectives.base import Examples
from ddae_jax.train.step import TrainStep

_KNOWN = [name for name, named in NAMED.items() if named.process is not None]

NETWORK = flags.DEFINE_list("network", ["unet-ddpm"], f"Of {', '.join(_KNOWN)}; all.")
BATCH = flags.DEFINE_integer("batch", 8, "Images a step.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed calls of each.", lower_bound=1)
PRECISION = flags.DEFINE_enum(
    "precision", "float32", ["float32", "bfloat16"], "bfloat16 is autocast in PyTorch."
)
REMAT = flags.DEFINE_enum(
    "remat", KEEP_ALL, [KEEP_ALL, *POLICIES], "What blocks recompute."
)
TORCH = flags.DEFINE_bool("torch", True, "DiT-B/2 also in PyTorch.")


def matrix_rate(dtype: str) -> float:
    """FLOP/s of a large square matrix product: the fastest of five."""
    size = 8192 if jax.default_backend() == "gpu" else 1024
    one = jnp.ones((size, size), jnp.dtype(dtype))
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(one, one))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(product(one, one))
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def compiled(function: Callable, *arguments: Any, **options: Any):
    """Returns the program, and its figures: compile time, FLOPs and memory.

    FLOPs are those of the program as written: a backend's own kernels, which the
    compiler cannot look into, do not hide any.
    """
    lowered = jax.jit(function, **options).lower(*arguments)
    start = time.perf_counter()
    program = lowered.compile(compiler_options=compiler.compiler_options())
    facts = {"compile_seconds": round(time.perf_counter() - start, 2)}
    counted = (lowered.cost_analysis() or {}).get("flops")
    facts["flops"] = float(counted or compiler.flops_on_cpu(function, *arguments))
    memory = program.memory_analysis()
    if memory is not None:
        held = memory.argument_size_in_bytes + memory.output_size_in_bytes
        held -= memory.alias_size_in_bytes
        facts["memory_bytes"] = held + memory.temp_size_in_bytes
    return program, facts


def programs(name: str) -> dict[str, tuple[Callable[[], None], dict]]:
    """The forward pass and the training step of a network, ready to time."""
    named, batch = NAMED[name], BATCH.value
    denoiser = named.denoiser(PRECISION.value)
    network = denoiser.network.clone(remat=REMAT.value)
    denoiser = type(denoiser)(network, denoiser.process)
    optimizer = optimizers.Adam(1e-4)
    key = jax.random.key(0)
    init = train_state.create(denoiser, optimizer, named.image_shape)
    state = jax.jit(init, compiler_options=compiler.options_for_one_call())(key)
    x0 = jax.random.normal(key, (batch, *named.image_shape))
    times = denoiser.process.training_times(key, batch)
    forward, forward_facts = compiled(denoiser.output, state.params, x0, times)
    recipe = TrainStep(denoiser, optimizer)

    def optimise(state, x0, noise, times, key):
        examples = Examples(x0, noise, times)
        return recipe.apply(state, *recipe.gradient(state, examples, key))

    step, step_facts = compiled(
        optimise, state, x0, x0, times, key, donate_argnums=(0,)
    )

    def run_forward():
        jax.block_until_ready(forward(state.params, x0, times))

    def run_step():
        nonlocal state
        state, metrics = step(state, x0, x0, times, key)
        jax.block_until_ready((state, metrics))

    return {"forward": (run_forward, forward_facts), "train": (run_step, step_facts)}


def measure(name: str, rate: float) -> dict:
    """All figures of a network."""
    result = {"parameters": NAMED[name].parameter_count()}
    for kind, (run, facts) in programs(name).items():
        sides = {"ours": run}
        if name == "dit-b2" and TORCH.value:
            sides["diffusers"] = _theirs(kind)
        seconds = timing.alternate(sides, ROUNDS.value)
        median = statistics.median(seconds["ours"])
        result[kind] = {
            **facts,
            "seconds": median,
            "share": facts["flops"] / median / rate,
        }
        if len(sides) > 1:
            result[kind]["beside"] = timing.summarise(seconds, BATCH.value)
            timing.show(kind, result[kind]["beside"])
    return result


@functools.cache
def _their_network(device: str):
    from benchmarks import theirs_dit

    return theirs_dit.build(device)


def _theirs(kind: str) -> Callable[[], None]:
    from benchmarks import theirs_dit

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    make = theirs_dit.forward if kind == "forward" else theirs_dit.trainer
    return make(_their_network(device), BATCH.value, device, PRECISION.value)


def show(name: str, result: dict) -> None:
    """Prints two lines."""
    for kind in ("forward", "train"):
        row = result[kind]
        print(
            f"{name:16s} {kind:8s} {result['parameters'] / 1e6:7.2f} M"
            f"  compile {row['compile_seconds']:6.1f} s"
            f"  {row['flops'] / 1e9:10.1f} GFLOP  {row['seconds']:8.3f} s"
            f"  {row.get('memory_bytes', 0) / 2**20:8.0f} MiB"
            f"  share {row['share']:.2f}",
            flush=True,
        )


def main(argv):
    """Measures what the flags ask for."""
    del argv
    names = _KNOWN if NETWORK.value == ["all"] else NETWORK.value
    unknown = sorted(set(names) - set(_KNOWN))
    if unknown:
        raise app.UsageError(f"--network: unknown {unknown}; known: {_KNOWN}")
    rate = matrix_rate(PRECISION.value)
    about = {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "jax": jax.__version__,
        "precision": PRECISION.value,
        "batch": BATCH.value,
        "rounds": ROUNDS.value,
        "remat": REMAT.value,
        "matrix_flops_per_second": rate,
        "compiler_options": compiler.compiler_options(),
    }
    for key, value in about.items():
        print(f"{key:24s} {value}", flush=True)
    results = {}
    for name in names:
        results[name] = measure(name, rate)
        show(name, results[name])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak resident memory of the run {peak / 2**20:.0f} MiB")
    print(json.dumps(about | {"peak_resident_bytes": peak, "results": results}))


if __name__ == "__main__":
    app.run(main)
