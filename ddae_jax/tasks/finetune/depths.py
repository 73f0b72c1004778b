"""How deep in the network the parameters lie that a tap depends on."""

from collections.abc import Sequence

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

from ddae_jax.denoiser import Denoiser


def parameter_shapes(denoiser: Denoiser, image_shape: Sequence[int]) -> dict:
    """The "/"-joined path of every parameter -> its ShapeDtypeStruct.

    Args:
      image_shape: (height, width, channels) of what the network takes.
    """
    tree = jax.eval_shape(
        lambda key: denoiser.init(key, image_shape), jax.random.key(0)
    )
    return flax.traverse_util.flatten_dict(tree, sep="/")


def layer_depths(
    denoiser: Denoiser, image_shape: Sequence[int], tap: str
) -> dict[str, int]:
    """Path of each parameter that `tap` depends on -> its depth, from 0.

    Depth 0 is everything before the first block: the embeddings of image, time and
    labels. From there on each module at the top of the network is one layer, in the
    order in which they run. The head on the tap is one deeper than the deepest.

    Raises:
      UserError: the network has no tap of that name.
    """
    used = denoiser.used_parameters(image_shape, tap)
    first, order = _order_of_execution(denoiser, image_shape, tap)
    layers = {path.split("/")[0] for path in used}
    running = [name for name in order if name in layers]
    start = next((i for i, name in enumerate(running) if name == first), 0)
    depth = {name: max(0, i - start + 1) for i, name in enumerate(running)}
    return {path: depth[path.split("/")[0]] for path in used}


def _tap(denoiser, flat, image_shape, tap):
    params = flax.traverse_util.unflatten_dict(flat, sep="/")
    images = jnp.zeros((1, *image_shape))
    return denoiser.taps(params, images, jnp.ones(1), (tap,))[tap]


def _order_of_execution(denoiser, image_shape, tap) -> tuple[str, list[str]]:
    """Name of the first block, and of the modules at the top as they run.

    A block is what is of the class of the network's first tap.
    """
    classes: dict[str, type] = {}

    def note(call, args, kwargs, context):
        # Other methods may run on a network that is not bound, which has no path.
        if context.method_name == "__call__" and len(context.module.path) == 1:
            classes.setdefault(context.module.path[0], type(context.module))
        return call(*args, **kwargs)

    shapes = parameter_shapes(denoiser, image_shape)
    with nn.intercept_methods(note):
        jax.eval_shape(lambda flat: _tap(denoiser, flat, image_shape, tap), shapes)
    kind = classes[next(iter(denoiser.network.tap_paths().values()))]
    first = next(name for name, cls in classes.items() if cls is kind)
    return first, list(classes)
