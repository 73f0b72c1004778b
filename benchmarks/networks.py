"""The published networks by name: what benchmarks and docs/networks.md go through."""

import dataclasses

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion import PROCESSES
from ddae_jax.models.dit import PRESETS as DIT
from ddae_jax.models.dit import DiT
from ddae_jax.models.edm2 import EDM2UNet
from ddae_jax.models.lightningdit import PRESETS as LIGHTNINGDIT
from ddae_jax.models.lightningdit import LightningDiT
from ddae_jax.models.songunet import SongUNet
from ddae_jax.models.unet import UNet
from ddae_jax.models.uvit import PRESETS as UVIT
from ddae_jax.models.uvit import UViT
from ddae_jax.models.vae import AutoencoderKL


@dataclasses.dataclass(frozen=True)
class Named:
    """A network at a published size.

    Attributes:
      network: in float32.
      image_shape: (height, width, channels) of what it takes.
      process: a key of diffusion.PROCESSES; None for the autoencoder, which has none.
      golden: the golden file that fixes it, or a smaller one of its kind.
      family: a key of weights.families.FAMILIES.
      asks: what no tensor of the golden file shows.
    """

    network: nn.Module
    image_shape: tuple[int, int, int]
    process: str | None
    golden: str
    family: str
    asks: tuple[tuple[str, int | bool], ...] = ()

    def denoiser(self, dtype: str = "float32") -> Denoiser:
        """The network under its process, computing in `dtype`."""
        network = self.network.clone(dtype=jnp.dtype(dtype))
        return Denoiser(network, PROCESSES[self.process]())

    def parameter_count(self) -> int:
        """Parameters as the authors count: with DiT's fixed positions, without the
        fixed frequencies of EDM's networks."""
        shapes = jax.eval_shape(self._init, jax.random.key(0))
        flat = flax.traverse_util.flatten_dict(shapes, sep="/")
        return sum(leaf.size for path, leaf in flat.items() if "fourier" not in path)

    def _init(self, key):
        images = jnp.zeros((1, *self.image_shape))
        inputs = (images,) if self.process is None else (images, jnp.ones(1))
        return self.network.init(key, *inputs)["params"]


_PLUS_PLUS = UNet(
    channel_multipliers=(2, 2, 2),
    attention=(False, True, False),
    blocks=4,
    residual_resampling=True,
    augment_channels=9,
)
_NCSNPP = SongUNet(
    fourier=True,
    noise_multiplier=2,
    residual_encoder=True,
    resample_filter=(1, 3, 3, 1),
    augment_channels=9,
)
_HEADS = (("heads", 4),)
_CIFAR, _LATENTS = (32, 32, 3), (32, 32, 4)

NAMED = {
    "unet-ddpm": Named(UNet(), _CIFAR, "ddpm", "unet_ddpm", "unet"),
    "unet-ddpmpp": Named(_PLUS_PLUS, _CIFAR, "edm", "unet_ddpmpp_aug", "unet"),
    "songunet-ddpmpp": Named(
        SongUNet(augment_channels=9), _CIFAR, "edm", "edm_ddpmpp_small", "songunet"
    ),
    "songunet-ncsnpp": Named(_NCSNPP, _CIFAR, "edm", "edm_ncsnpp_small", "songunet"),
    "edm2-c": Named(
        EDM2UNet(uncertainty=False),
        _CIFAR,
        "edm",
        "edm2_c_small",
        "edm2",
        (("weight_normalization", False),),
    ),
    "edm2-e": Named(
        EDM2UNet(weight_normalization=True, uncertainty=False),
        _CIFAR,
        "edm",
        "edm2_e_small",
        "edm2",
        (("weight_normalization", True),),
    ),
    "uvit-s2": Named(
        UViT(**UVIT["U-ViT-S/2"]), _CIFAR, "ddpm", "uvit_small", "uvit", _HEADS
    ),
    "uvit-s2-classes": Named(
        UViT(**UVIT["U-ViT-S/2"], num_classes=10),
        _CIFAR,
        "ddpm",
        "uvit_small_cond",
        "uvit",
        (*_HEADS, ("null_class", False)),
    ),
    **{
        f"dit-{size.lower()}2": Named(
            DiT(**DIT[f"DiT-{size}/2"]), _LATENTS, "dit", "dit_small", "dit", _HEADS
        )
        for size in ("S", "B", "L", "XL")
    },
    **{
        f"lightningdit-{size.lower()}1": Named(
            LightningDiT(**LIGHTNINGDIT[f"LightningDiT-{size}/1"]),
            (16, 16, 32),  # VA-VAE's latents of 256x256 images
            "flow",
            "lightningdit_small",
            "lightningdit",
            _HEADS,
        )
        for size in ("B", "L", "XL")
    },
    "sd-vae": Named(AutoencoderKL(), (256, 256, 3), None, "vae_small", "vae"),
}
"""Name -> network: of --network, and of the rows of docs/networks.md."""
