"""Speed of the 35.7 M UNet: ours against diffusers' UNet2DModel in PyTorch.

    python -m benchmarks.speed --what=train,sample,extract --batch=16 --rounds=7

Both sides do the same work in one process, turn by turn, because the speed of a shared
machine drifts: only the ratio of medians counts. The last line is JSON.
"""

import json
import os
from collections.abc import Callable

import diffusers
import jax
import numpy as np
import torch
from absl import app, flags

from benchmarks import ours, theirs, timing
from ddae_jax.runtime import compiler

WHAT = flags.DEFINE_list("what", ["train", "sample", "extract"], "What to time.")
BATCH = flags.DEFINE_integer("batch", 16, "Images a step.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 7, "Turns of each side.", lower_bound=1)
DDIM_STEPS = flags.DEFINE_integer("ddim_steps", 10, "Network evaluations a sample.")
TAP = flags.DEFINE_enum("tap", "out_6", list(theirs.TAPS), "Tap that is extracted.")
PRECISION = flags.DEFINE_enum(
    "precision", "float32", ["float32", "bfloat16"], "bfloat16 is autocast in PyTorch."
)
CHANNELS_LAST = flags.DEFINE_bool("channels_last", False, "PyTorch's memory format.")
COMPILE = flags.DEFINE_bool("torch_compile", False, "torch.compile PyTorch's network.")

COMPILER_OPTIONS = flags.DEFINE_bool(
    "compiler_options", True, "Compile ours with the product's compiler options."
)

KNOWN = ("train", "sample", "extract")


def compiler_options() -> dict[str, str] | None:
    """The product's, or XLA's defaults where the flag says so."""
    return compiler.compiler_options() if COMPILER_OPTIONS.value else None


def sides_of(task: str, device: str) -> dict[str, Callable[[], None]]:
    """Builds both sides of one task, from the flags."""
    batch, precision = BATCH.value, PRECISION.value
    images = np.random.default_rng(0).integers(0, 256, (batch, 32, 32, 3), np.uint8)
    denoiser = ours.build(precision)
    network = theirs.build(device, CHANNELS_LAST.value)
    layout, compiled = CHANNELS_LAST.value, COMPILE.value
    if task == "train":
        return {
            "ours": ours.trainer(denoiser, images, compiler_options()),
            "torch": theirs.trainer(
                network, images, device, precision, layout, compiled
            ),
        }
    params = ours.parameters(denoiser)
    if task == "sample":
        steps = DDIM_STEPS.value
        return {
            "ours": ours.sampler(denoiser, params, batch, steps, compiler_options()),
            "torch": theirs.sampler(network, batch, steps, device, precision, compiled),
        }
    extract = (network, images, TAP.value, device, precision, layout)
    return {
        "ours": ours.extractor(denoiser, params, images, TAP.value, compiler_options()),
        "torch early stop": theirs.extractor(*extract, early_stop=True),
        "torch full pass": theirs.extractor(*extract, early_stop=False),
    }


def main(argv):
    """Times what the flags ask for."""
    del argv
    unknown = set(WHAT.value) - set(KNOWN)
    if unknown:
        raise app.UsageError(f"--what: unknown {unknown}; known: {', '.join(KNOWN)}")
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise app.UsageError("jax sees a GPU and this PyTorch does not")
    network = theirs.build("cpu", channels_last=False)
    about = {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "jax": jax.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "precision": PRECISION.value,
        "batch": BATCH.value,
        "rounds": ROUNDS.value,
        "ddim_steps": DDIM_STEPS.value,
        "tap": TAP.value,
        "channels_last": CHANNELS_LAST.value,
        "torch_compile": COMPILE.value,
        "compiler_options": compiler_options(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "our_parameters": ours.build("float32").parameter_count(ours.IMAGE_SHAPE),
        "their_parameters": theirs.parameter_count(network),
    }
    for name, value in about.items():
        print(f"{name:18s} {value}", flush=True)
    results = {}
    for task in WHAT.value:
        seconds = timing.alternate(sides_of(task, device), ROUNDS.value)
        results[task] = timing.summarise(seconds, BATCH.value)
        timing.show(task, results[task])
    print(json.dumps(about | {"results": results}))


if __name__ == "__main__":
    app.run(main)
