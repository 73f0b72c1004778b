"""The published networks whose checkpoints can be read and written, by family."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from ddae_jax.errors import UserError
from ddae_jax.models.dit import DiT
from ddae_jax.models.edm2 import EDM2UNet
from ddae_jax.models.lightningdit import LightningDiT
from ddae_jax.models.songunet import SongUNet
from ddae_jax.models.unet import UNet
from ddae_jax.models.uvit import UViT
from ddae_jax.models.vae import AutoencoderKL
from ddae_jax.weights import dit, edm2, lightningdit, songunet, unet, uvit, vae
from ddae_jax.weights.torch_layout import Entry, PublishedClass

State = Mapping[str, np.ndarray]
Shape = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Family:
    """How to read and write the checkpoints of one family.

    Attributes:
      network: our class of its networks.
      signature: tensors that together no other family has.
      names: network -> torch name -> place in our parameters.
      network_from_state: (state, **arguments) -> network.
      published_class: (network, image_shape) -> the class whose state dict this is.
      process: name of the process that its networks are trained under; None where the
        tensors leave it open.
      asks: arguments of `network_from_state` that no tensor shows, each with a value
        that suits all tensors of the family: names and shapes do not depend on it.
      needs: those of `asks` that have no usual value.
      image_shape: state -> (height, width, channels), where the tensors show it.
      clean: (state, network) -> state without what is no parameter.
      complete: (state, network, image_shape) -> what strict loading by the published
        class wants: `clean` undone.
    """

    network: type[nn.Module]
    signature: tuple[str, ...]
    names: Callable[[nn.Module], dict[str, Entry]]
    network_from_state: Callable[..., nn.Module]
    published_class: Callable[[nn.Module, Shape], PublishedClass]
    process: str | None
    asks: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    needs: tuple[str, ...] = ()
    image_shape: Callable[[State], Shape] | None = None
    clean: Callable[[State, nn.Module], State] = lambda state, _: state
    complete: Callable[[State, nn.Module, Shape], State] = lambda state, *_: state


def _songunet_image_shape(state):
    network = songunet.network_from_state(state)
    return network.resolution, network.resolution, network.image_channels


FAMILIES = {
    "unet": Family(
        UNet,
        ("image_proj.weight", "time_emb.lin1.weight"),
        unet.names,
        unet.network_from_state,
        unet.published_class,
        process=None,
        asks={"head_channels": None},
    ),
    "edm2": Family(
        EDM2UNet,
        ("image_proj.weight", "embedding.fourier.phases"),
        edm2.names,
        edm2.network_from_state,
        edm2.published_class,
        process="edm",
        asks={"weight_normalization": True, "head_channels": None},
        needs=("weight_normalization",),
        complete=lambda state, network, _: edm2.in_module(state, network),
    ),
    "songunet": Family(
        SongUNet,
        ("model.map_layer0.weight", "model.map_layer1.weight"),
        songunet.names,
        songunet.network_from_state,
        songunet.published_class,
        process="edm",
        image_shape=_songunet_image_shape,
        clean=songunet.without_filters,
        complete=lambda state, network, _: songunet.with_filters(state, network),
    ),
    "uvit": Family(
        UViT,
        ("patch_embed.proj.weight", "decoder_pred.weight"),
        uvit.names,
        uvit.network_from_state,
        uvit.published_class,
        process="ddpm",
        asks={"heads": 1, "null_class": False},
        image_shape=uvit.image_shape,
    ),
    "lightningdit": Family(
        LightningDiT,
        ("x_embedder.proj.weight", "blocks.0.mlp.w12.weight"),
        lightningdit.names,
        lightningdit.network_from_state,
        lightningdit.published_class,
        process="flow",
        asks={"heads": 1},
        image_shape=lightningdit.image_shape,
        clean=lambda state, _: lightningdit.without_buffers(state),
        complete=lambda state, network, image_shape: (
            dict(state) | lightningdit.buffers(network, image_shape)
        ),
    ),
    "dit": Family(
        DiT,
        ("x_embedder.proj.weight", "blocks.0.mlp.fc1.weight"),
        dit.names,
        dit.network_from_state,
        dit.published_class,
        process="dit",
        asks={"heads": 1},
        image_shape=dit.image_shape,
    ),
    "vae": Family(
        AutoencoderKL,
        ("encoder.conv_in.weight", "decoder.conv_in.weight"),
        vae.names,
        vae.network_from_state,
        vae.published_class,
        process=None,
        clean=lambda state, _: vae.current_names(state),
    ),
}
"""Name -> family. All but "vae", the autoencoder of latents, are denoisers, and keys
of models.NETWORKS too."""


def detect(state: State) -> str:
    """Returns the family whose signature is among the tensors.

    Raises:
      UserError: there is none.
    """
    for name, family in FAMILIES.items():
        if all(tensor in state for tensor in family.signature):
            return name
    raise UserError(
        f"the tensors ({', '.join(sorted(state)[:3])}, ...) show no known family: give "
        f"family, one of {', '.join(FAMILIES)}"
    )


def of_network(network: nn.Module) -> Family:
    """Returns the family that `network` belongs to.

    Raises:
      UserError: its class has no published form.
    """
    for family in FAMILIES.values():
        if type(network) is family.network:
            return family
    raise UserError(f"{type(network).__name__} has no published form")


def network_of(name: str, state: State, arguments: Mapping[str, Any]) -> nn.Module:
    """Infers the network of family `name` from its tensors.

    Args:
      arguments: what no tensor shows; None is not given.

    Raises:
      UserError: the tensors are of another family; an argument is needed and not
        given, or given and of another family.
    """
    family = FAMILIES[name]
    given = {key: value for key, value in arguments.items() if value is not None}
    for key in given:
        if key not in family.asks:
            raise UserError(f"{key} is given, but {name} networks have no such field")
    for key in family.needs:
        if key not in given:
            raise UserError(
                f"no tensor of family {name} shows {key}: give {key}, True or False"
            )
    try:
        return family.network_from_state(state, **given)
    except UserError:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(
            f"the tensors are not those of family {name}: {error}"
        ) from error


def fields(network: nn.Module, without: Sequence[str] = ()) -> dict[str, Any]:
    """The fields that describe a network, without flax's own; sections as dicts."""
    values = {
        field.name: getattr(network, field.name)
        for field in dataclasses.fields(network)
        if field.init and field.name not in ("name", "parent", *without)
    }
    sections = {
        name: dataclasses.asdict(value)
        for name, value in values.items()
        if dataclasses.is_dataclass(value) and not isinstance(value, type)
    }
    return values | sections
