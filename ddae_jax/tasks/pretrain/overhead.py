"""What self-conditioning costs."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from ddae_jax.denoiser import Denoiser

_MODULES = ("self_condition", "summary_token")


def of_self_conditioning(denoiser: Denoiser, image_shape: Sequence[int]) -> str:
    """Its parameters and operations beside the whole network's, in one line.

    Empty where it is off.
    """
    source = denoiser.network.self_condition_source()
    if not source:
        return ""
    shapes = flatten_dict(denoiser.parameter_shapes(image_shape), sep="/")
    own = [leaf for path, leaf in shapes.items() if path.split("/")[0] in _MODULES]
    parameters = sum(leaf.size for leaf in own)
    # A multiplication and an addition for each entry of a matrix; what a further token
    # takes in attention is not counted.
    flops = 2 * sum(leaf.size for leaf in own if len(leaf.shape) == 2)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    time = jax.ShapeDtypeStruct((1,), jnp.float32)
    lowered = jax.jit(denoiser.output).lower(
        denoiser.parameter_shapes(image_shape), images, time, denoiser.any_labels(1)
    )
    all_parameters = denoiser.parameter_count(image_shape)
    line = (
        f"self-conditioning by {source}: {parameters:,} parameters "
        f"({100 * parameters / (all_parameters - parameters):.2f} % more)"
    )
    whole = (lowered.cost_analysis() or {}).get("flops")
    if whole:
        line += f", {flops:,} operations per image ({100 * flops / whole:.3f} % more)"
    return line
