"""Maps of whole photos: windows through an encoder, against a plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.data import augment
from ddae_jax.data import source as data_source
from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.features.encode import Encoder, encode_set
from ddae_jax.features.spatial import GridEncoder
from ddae_jax.features.windowed import encode_photos, needed_bytes
from ddae_jax.features.windows import Windows
from ddae_jax.models.dit import DiT
from ddae_jax.models.unet import UNet
from ddae_jax.runtime import parallel
from tests.tools.encoders import OneFeature

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
PIXELS = OneFeature("pixels", lambda x0, noise, time: x0)
NOISE = OneFeature("noise", lambda x0, noise, time: noise)


def photos(*sizes, channels=3):
    return [RNG.integers(0, 256, (*size, channels), np.uint8) for size in sizes]


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_pixels_come_back_bit_by_bit_whatever_the_batch(batch_size):
    mesh = parallel.make_mesh()
    given = photos((16, 27), (8, 8), (8, 11), (31, 16))
    found = encode_photos(PIXELS, {}, mesh, given, (8, 8), 1.0, KEY, batch_size)
    assert len(found["pixels"]) == 4
    to_float = jax.jit(augment.to_float)
    for pixels, photo in zip(found["pixels"], given, strict=True):
        np.testing.assert_array_equal(pixels, to_float(photo))


def test_each_window_has_its_own_noise():
    """So that what is left of noise shows no period."""
    (given,) = photos((8, 40))
    mesh = parallel.make_mesh()
    found = encode_photos(NOISE, {}, mesh, [given], (8, 8), 1.0, KEY, 4)
    left = np.asarray(found["noise"][0])
    apart = np.corrcoef(left[:, :8].ravel(), left[:, 16:24].ravel())[0, 1]
    assert abs(apart) < 0.3 and left.std() < 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    "network, taps",
    [
        (
            UNet(
                image_channels=1,
                channels=32,
                channel_multipliers=(1, 1),
                attention=(False, False),
                blocks=1,
            ),
            ("out_1", "out_3"),
        ),
        (
            DiT(
                patch_size=2,
                hidden_size=32,
                depth=2,
                heads=2,
                image_channels=1,
                num_classes=0,
            ),
            ("layer-1",),
        ),
    ],
    ids=["unet", "dit"],
)
def test_squares_of_the_networks_size_are_encoded_as_a_set_is(network, taps):
    denoiser = Denoiser(network, DDPM())
    params = jax.jit(lambda key: denoiser.init(key, (8, 8, 1)))(KEY)
    encode = GridEncoder(Encoder(denoiser, taps, pooled=False))
    mesh = parallel.make_mesh()
    squares = photos((8, 8), (8, 8), (8, 8), channels=1)
    whole = data_source.from_arrays("x", "test", np.stack(squares), [0, 0, 0], ("",))
    (expected,) = encode_set(encode, params, mesh, whole, (30.0,), KEY, 3)
    found = encode_photos(encode, params, mesh, squares, (8, 8), 30.0, KEY, 64)
    assert set(found) == set(expected) == set(taps)
    for tap in taps:
        np.testing.assert_array_equal(found[tap], expected[tap])
    # A network without a shape for it: windows are what it takes.
    (wide,) = photos((16, 29), channels=1)
    found = encode_photos(encode, params, mesh, [wide], (8, 8), 30.0, KEY, 64)
    for tap in taps:
        rows, columns, channels = expected[tap].shape[1:]
        shape = (2 * rows, round(29 * columns / 8), channels)
        assert found[tap][0].shape == shape and np.isfinite(found[tap][0]).all()


def test_needed_bytes_count_photos_and_maps():
    def halves(x0, noise, time):
        return jnp.zeros((len(x0), 4, 4, 5))

    layouts = [Windows((16, 24), (8, 8)), Windows((8, 8), (8, 8))]
    found = needed_bytes(OneFeature("half", halves), {}, layouts, (8, 8, 3))
    kept = (16 * 24 + 8 * 8) * 3 + (8 * 12 + 4 * 4) * 5 * 4
    assert found == kept + 16 * 8 * 12 * 5
