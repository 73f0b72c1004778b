"""Networks from outside the package, and what is refused in their place."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from ddae_jax import models
from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.errors import UserError
from ddae_jax.models.base import Network
from ddae_jax.models.unet import UNet
from ddae_jax.settings.fields import declared, setting


class Pointwise(Network):
    """Two linear maps of each pixel: what a user writes, with all else by default."""

    width: int = setting(8, "width of the hidden layer", least=1, most=64)

    def tap_paths(self):
        return {"hidden": "hidden"}

    def tiny(self):
        return self.clone(width=4)

    @nn.compact
    def __call__(self, images, time, labels=None, augment_labels=None, train=False):
        self.check_inputs(images, labels, augment_labels)
        x = nn.Dense(self.width, dtype=self.dtype, name="hidden")(images)
        x = nn.silu(x) * time[:, None, None, None]
        return nn.Dense(images.shape[-1], name="out")(x).astype(jnp.float32)


@pytest.fixture
def networks(monkeypatch):
    """The registry, as it was again after the test."""
    monkeypatch.setattr(models, "NETWORKS", dict(models.NETWORKS))
    return models.NETWORKS


def test_a_network_of_a_users_own_is_registered_and_denoises(networks):
    models.register_network("pointwise", Pointwise)
    network = models.NETWORKS["pointwise"]().tiny()
    assert list(declared(Pointwise)) == ["image_channels", "width"]
    denoiser = Denoiser(network, DDPM())
    params = denoiser.init(jax.random.key(0), (4, 4, 3))
    assert denoiser.parameter_count((4, 4, 3)) == 4 * 4 + 5 * 3
    images, time = jnp.ones((2, 4, 4, 3)), jnp.ones(2)
    assert denoiser.loss(params, images, images, time).shape == (2,)
    assert denoiser.taps(params, images, time, ["hidden"])["hidden"].shape[-1] == 4
    assert network.null_label is None and network.fixed_parameters == ()
    assert network.project(params) is params
    assert not network.log_variance(time).any()


def test_a_name_belongs_to_one_class(networks):
    models.register_network("unet", UNet)
    with pytest.raises(UserError, match="network 'unet' is UNet already"):
        models.register_network("unet", Pointwise)
    models.register_network("pointwise", Pointwise)
    body = {"__module__": Pointwise.__module__, "__doc__": "Read a second time."}
    again = type("Pointwise", (Pointwise,), body)
    models.register_network("pointwise", again)
    assert models.NETWORKS["pointwise"] is again


def test_what_is_no_network_is_refused(networks):
    with pytest.raises(UserError, match="is no subclass of Network"):
        models.register_network("dense", nn.Dense)
    with pytest.raises(UserError, match="is no subclass of Network"):
        models.register_network("made", Pointwise())

    class Half(Network):
        def tap_paths(self):
            return {}

    with pytest.raises(UserError, match="network 'half': Half lacks __call__, tiny"):
        models.register_network("half", Half)
    assert "half" not in models.NETWORKS


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("unet", {"attention": (True,)}, "given for 1 levels, channel_multipliers for"),
        ("edm2", {"channel_multipliers": (1,)}, "given for 4 levels"),
        ("songunet", {"resolution": 34}, "34 cannot be halved for 3 levels"),
        ("songunet", {"channels": 126}, "not a multiple of 4"),
        ("songunet", {"resample_filter": (1, 2, 1)}, "an even number of taps"),
        ("songunet", {"resample_filter": (1, -1)}, "whose sum is not 0"),
        ("uvit", {"depth": 3}, "3 is not even"),
        ("uvit", {"hidden_size": 7, "heads": 1}, "7 is not even"),
        ("dit", {"heads": 7}, "heads: 7 do not divide hidden_size 1152"),
        ("lightningdit", {"heads": 5}, "heads: 5 do not divide"),
        ("unet", {"channels": 1 << 31}, "UNet.channels: 2147483648 is not 1 or more"),
        ("unet", {"dropout": 1.0}, "UNet.dropout: 1.0 is not"),
        ("unet", {"attention_implementation": "fast"}, "unknown 'fast'"),
    ],
)
def test_fields_that_make_no_network_are_refused(name, changes, message):
    with pytest.raises(UserError, match=message) as raised:
        models.NETWORKS[name](**changes)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"channels": 40}, "40 channels does not divide into 32 groups"),
        ({"channels": 32, "head_channels": 20}, "do not divide into heads of 20"),
    ],
)
@pytest.mark.parametrize("name", ["unet", "edm2"])
def test_widths_that_do_not_divide_are_refused(name, changes, message):
    network = models.NETWORKS[name]().tiny().clone(**changes)
    images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(network.init, jax.random.key(0), images, jnp.ones(1))
