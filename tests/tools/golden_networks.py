"""The golden networks: their files' tensors, and how our networks are told of them."""

import dataclasses

import numpy as np

from ddae_jax.weights import families
from tests.tools import golden_values


@dataclasses.dataclass(frozen=True)
class Golden:
    """What no tensor of a golden file shows.

    Attributes:
      family: a key of weights.families.FAMILIES.
      process: that an import chooses, or that is given where `given` has it.
      given: fields of config.import_weights.
      side: of its images or latents, in pixels.
      buffers: tensors of the published class that the golden file leaves out, with
        their shapes: they are constants.
    """

    family: str
    process: str | None
    given: dict
    side: int = 16
    buffers: dict = dataclasses.field(default_factory=dict)

    @property
    def asked(self) -> dict:
        """Those of `given` that the network depends on."""
        keys = families.FAMILIES[self.family].asks
        return {key: value for key, value in self.given.items() if key in keys}


def _filters(*modules, taps):
    return {f"model.{module}.resample_filter": (1, 1, taps, taps) for module in modules}


_RESAMPLED = (
    *("enc.8x8_down.conv0", "enc.8x8_down.skip"),
    *("dec.16x16_up.conv0", "dec.16x16_up.skip"),
)
GOLDEN = {
    "unet_small": Golden("unet", "ddpm", dict(process="ddpm", image_size=16)),
    "unet_small_bigup": Golden(
        "unet", "edm", dict(process="edm", image_size=16, head_channels=16)
    ),
    "edm_ddpmpp_small": Golden(
        "songunet", "edm", {}, buffers=_filters(*_RESAMPLED, taps=2)
    ),
    "edm_ncsnpp_small": Golden(
        "songunet",
        "edm",
        {},
        buffers=_filters(*_RESAMPLED, "enc.8x8_aux_residual", taps=4),
    ),
    "edm2_c_small": Golden(
        "edm2", "edm", dict(weight_normalization=False, image_size=16)
    ),
    "edm2_e_small": Golden(
        "edm2", "edm", dict(weight_normalization=True, image_size=16)
    ),
    "uvit_small": Golden("uvit", "ddpm", dict(heads=4, time_scale=1.0)),
    "uvit_small_cond": Golden(
        "uvit", "ddpm", dict(heads=4, null_class=False, time_scale=1.0)
    ),
    "dit_small": Golden("dit", "dit", dict(heads=4), 8),
    "lightningdit_small": Golden(
        "lightningdit",
        "flow",
        dict(heads=4),
        8,
        {"feat_rope.freqs_cos": (64, 16), "feat_rope.freqs_sin": (64, 16)},
    ),
    "vae_small": Golden("vae", None, {}, 32),
}


def network_of(name: str):
    """Our network, as its tensors and what is given tell, and its state dict."""
    golden = GOLDEN[name]
    state = golden_values.state(golden_values.load(name)[0])
    return families.network_of(golden.family, state, golden.asked), state


def image_shape(name: str, network) -> tuple[int, int, int]:
    """(height, width, channels) of what the network takes."""
    return GOLDEN[name].side, GOLDEN[name].side, network.image_channels


def check_same(found: dict, expected: dict) -> None:
    """Two state dicts are the same bit by bit."""
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array, err_msg=key)
        assert found[key].dtype == array.dtype
