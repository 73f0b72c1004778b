"""What benchmarks.gpu measures: each part's work, ours and PyTorch's, ready to time."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import ours, theirs, theirs_dit, theirs_songunet
from benchmarks.networks import NAMED
from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion import PROCESSES
from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.runtime import compiler
from ddae_jax.train import optimizers
from ddae_jax.train.feed import Batch
from ddae_jax.train.state import first_state
from ddae_jax.train.step import Keys, TrainStep

TAP = "out_6"

Run = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Part:
    """One kind of work.

    Attributes:
      images: of one call, all its steps together.
      rounds: timed turns.
      ours: adds sides and facts, side by side, while PyTorch compiles.
      theirs: name -> how to build that side of PyTorch.
    """

    images: int
    rounds: int
    ours: Callable[["Built"], None]
    theirs: dict[str, Callable[[], Run]]


@dataclasses.dataclass
class Built:
    """What the compilation of our sides found.

    Attributes:
      sides: name -> call that does the work and waits for it.
      facts: name -> figures of its program: FLOPs of one call, bytes, seconds.
      errors: name -> why there is no such side.
      metrics: name -> of the last training step.
    """

    sides: dict[str, Run] = dataclasses.field(default_factory=dict)
    facts: dict[str, dict] = dataclasses.field(default_factory=dict)
    errors: dict[str, str] = dataclasses.field(default_factory=dict)
    metrics: dict[str, dict] = dataclasses.field(default_factory=dict)


def device() -> str:
    """PyTorch's name of the device that jax uses."""
    return "cuda" if jax.default_backend() == "gpu" else "cpu"


def _uint8(batch: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, 32, 32, 3), np.uint8)


def _memory(program: Any) -> dict:
    memory = program.memory_analysis()
    if memory is None:
        return {}
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    held -= memory.alias_size_in_bytes
    return {"memory_bytes": held + memory.temp_size_in_bytes}


def _add(built: Built, name: str, function: Callable, arguments: tuple, **options):
    """Compiles a function of (carried, *rest); returns the program, None on failure."""
    start = time.perf_counter()
    try:
        lowered = jax.jit(function, **options).lower(*arguments)
        program = lowered.compile(compiler_options=compiler.compiler_options())
    except Exception as error:  # such as shapes that cuDNN's attention does not take
        built.errors[name] = f"{type(error).__name__}: {error}"[:300]
        return None
    built.facts[name] = _memory(program)
    built.facts[name]["compile_seconds"] = round(time.perf_counter() - start, 1)
    return program


def _random_parameters(denoiser: Denoiser, shape: tuple[int, ...]) -> dict:
    """Random values everywhere: branches that begin at zero would multiply zeros, which
    is faster."""
    shapes = jax.eval_shape(lambda key: denoiser.init(key, shape), jax.random.key(0))
    leaves, structure = jax.tree.flatten(shapes)
    ends = np.cumsum([leaf.size for leaf in leaves])

    @jax.jit
    def draw(key):
        # One draw for all: it compiles in a moment.
        values = jnp.split(jax.random.normal(key, (ends[-1],)), ends[:-1])
        return structure.unflatten(
            value.reshape(leaf.shape) / math.sqrt(max(leaf.size // leaf.shape[-1], 16))
            for value, leaf in zip(values, leaves, strict=True)
        )

    return draw(jax.random.key(0))


def _training(denoiser: Denoiser, images: np.ndarray, steps: int):
    """Our training step; with cuDNN's attention beside XLA's, on the same state."""

    def build(built: Built) -> None:
        optimizer = optimizers.Adam(1e-4)
        params = _random_parameters(denoiser, images.shape[1:])
        carried = [jax.jit(lambda params: first_state(params, optimizer))(params)]
        del params
        batch = Batch(jnp.asarray(images), *[jnp.zeros(len(images), jnp.int32)] * 3)
        rest = batch, Keys.of(0)
        shapes = jax.eval_shape(lambda *arguments: arguments, carried[0], *rest)

        def add(name, attention):
            network = denoiser.network.clone(attention_implementation=attention)
            recipe = TrainStep(Denoiser(network, denoiser.process), optimizer)
            program = _add(built, name, recipe, shapes, donate_argnums=0)
            if program is None:
                return

            def run():
                for _ in range(steps):
                    carried[0], built.metrics[name] = program(carried[0], *rest)
                jax.block_until_ready((carried[0], built.metrics[name]))

            built.sides[name] = run
            if attention is None:
                flops = compiler.flops_on_cpu(recipe, *shapes)
                built.facts[name]["flops"] = steps * (flops or 0.0)
                count = sum(p.size for p in jax.tree.leaves(shapes[0].params))
                built.facts[name]["parameters"] = count

        add("ours", None)
        if jax.default_backend() == "gpu":
            add("ours, cuDNN attention", "cudnn")

    return build


def _sampling(denoiser: Denoiser, batch: int, steps: int):
    def build(built: Built) -> None:
        params = ours.parameters(denoiser)
        run = ours.sampler(denoiser, params, batch, steps, compiler.compiler_options())
        run()
        built.sides["ours"] = run
        built.facts["ours"] = {"flops": steps * _forward_flops(denoiser, params, batch)}

    return build


def _extraction(denoiser: Denoiser, batch: int):
    def build(built: Built) -> None:
        params = ours.parameters(denoiser)
        images = _uint8(batch)
        run = ours.extractor(denoiser, params, images, TAP, compiler.compiler_options())
        run()
        built.sides["ours"] = run
        built.facts["ours"] = {}

    return build


def _forward_flops(denoiser: Denoiser, params: dict, batch: int) -> float:
    shape = jax.ShapeDtypeStruct((batch, *ours.IMAGE_SHAPE), jnp.float32)
    times = jax.ShapeDtypeStruct((batch,), jnp.float32)
    return compiler.flops_on_cpu(denoiser.output, params, shape, times) or 0.0


def parts(tiny: bool) -> dict[str, Part]:
    """Name -> part. `tiny` has sizes that a CPU runs in seconds, to try the script."""
    steps, rounds = (1, 2) if tiny else (5, 9)
    where, compiled = device(), not tiny or device() == "cuda"
    unet_batch, song_batch, dit_batch = (2, 2, 1) if tiny else (128, 64, 32)
    sample_batch, ddim, extract_batch = (2, 2, 2) if tiny else (256, 100, 1024)
    dtype = "bfloat16" if where == "cuda" else "float32"  # which a CPU has natively
    unet, song, dit = (
        NAMED[name].network.clone(dtype=jnp.dtype(dtype))
        for name in ("unet-ddpm", "songunet-ddpmpp", "dit-xl2")
    )
    if tiny:
        unet = unet.clone(channels=32, channel_multipliers=(1, 1, 1, 1), blocks=1)
        song = song.clone(channels=32, blocks=1)
        dit = dit.clone(hidden_size=64, depth=2, heads=4)
    denoiser = Denoiser(unet, DDPM())
    images, small = _uint8(unet_batch), _uint8(song_batch)
    latents = np.random.default_rng(0).normal(size=(dit_batch, 32, 32, 4))

    def their_unet():
        return theirs.build(where, channels_last=True)

    def dit_trainer():
        network = theirs_dit.build(where, "B" if tiny else "XL", share_embedding=True)
        return theirs_dit.trainer(network, dit_batch, where, dtype, compiled, steps)

    return {
        "unet": Part(
            unet_batch * steps,
            rounds,
            _training(denoiser, images, steps),
            {
                "torch": lambda: theirs.trainer(
                    their_unet(), images, where, dtype, True, compiled, steps
                )
            },
        ),
        "dit": Part(
            dit_batch * steps,
            rounds,
            _training(
                Denoiser(dit, PROCESSES["dit"]()), latents.astype(np.float32), steps
            ),
            {"torch": dit_trainer},
        ),
        "sample": Part(
            sample_batch,
            2 if tiny else 5,
            _sampling(denoiser, sample_batch, ddim),
            {
                "torch": lambda: theirs.sampler(
                    their_unet(), sample_batch, ddim, where, dtype, compiled
                )
            },
        ),
        "extract": Part(
            extract_batch,
            2 if tiny else 25,
            _extraction(denoiser, extract_batch),
            {
                "torch": lambda: theirs.extractor(
                    their_unet(), _uint8(extract_batch), TAP, where, dtype, True, True
                ),
                "torch, cut and compiled": lambda: theirs.compiled_extractor(
                    their_unet(), _uint8(extract_batch), TAP, where, dtype, True
                ),
            },
        ),
        "songunet": Part(
            song_batch * steps,
            rounds,
            _training(Denoiser(song, PROCESSES["edm"]()), small, steps),
            {
                "torch": lambda: theirs_songunet.trainer(
                    small, where, dtype, compiled, steps
                )
            },
        ),
    }
