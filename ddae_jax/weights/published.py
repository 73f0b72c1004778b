"""State dicts as the published PyTorch code loads them, from and to our parameters."""

from collections.abc import Mapping

import flax.linen as nn
import numpy as np

from ddae_jax.errors import UserError
from ddae_jax.weights import families, torch_layout
from ddae_jax.weights.families import Shape, State
from ddae_jax.weights.torch_layout import PublishedClass


def published_class(network: nn.Module, image_shape: Shape) -> PublishedClass:
    """The published PyTorch class that loads `to_state`, strictly.

    Args:
      image_shape: (height, width, channels) of the images, or latents, it is for.

    Raises:
      UserError: the network is of no published family.
    """
    return families.of_network(network).published_class(network, image_shape)


def to_state(
    network: nn.Module, params: Mapping, image_shape: Shape
) -> dict[str, np.ndarray]:
    """Returns torch name -> array, of all parameters and lasting buffers.

    Raises:
      UserError: the network is of no published family, or has parameters that the
        published code does not know, such as those of self-conditioning.
    """
    family = families.of_network(network)
    state = torch_layout.to_torch(params, family.names(network))
    return dict(family.complete(state, network, image_shape))


def to_parameters(network: nn.Module, state: State, shapes: Mapping) -> dict:
    """Returns the parameters that a state dict holds: `to_state` undone.

    Args:
      network: whose tensors they are.
      state: torch name -> array; buffers may be there or not.
      shapes: the network's own parameter tree, of arrays or ShapeDtypeStructs.

    Raises:
      UserError: a tensor is missing, surplus or of another shape; all are listed.
    """
    family = families.of_network(network)
    state = family.clean(own_names(state), network)
    return torch_layout.from_torch(state, family.names(network), shapes)


def to_parameters_of_shapes(state: State, shapes: Mapping) -> dict:
    """`to_parameters` of the network that the tensors show.

    What no tensor shows decides neither names nor shapes.

    Raises:
      UserError: the tensors are of no known family, or do not fit `shapes`.
    """
    state = own_names(state)
    name = families.detect(state)
    network = families.network_of(name, state, families.FAMILIES[name].asks)
    return to_parameters(network, state, shapes)


def own_names(state: State) -> dict[str, np.ndarray]:
    """Removes the prefixes of DataParallel and of the module of the process.

    Raises:
      UserError: a tensor is there twice, with and without a prefix.
    """
    for prefix in ("module.", "nn_model."):
        names = [name.removeprefix(prefix) for name in state]
        if len(set(names)) != len(names):
            raise UserError(f"a tensor is there twice, with and without {prefix}")
        state = dict(zip(names, state.values(), strict=True))
    return dict(state)
