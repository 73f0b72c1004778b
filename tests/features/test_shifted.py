"""Mean features over shifts."""

import jax.numpy as jnp
import numpy as np

from ddae_jax.features.encode import Pixels
from ddae_jax.features.shifted import Shifted, shifted


def test_black_comes_in_from_above_and_left():
    x0 = jnp.arange(9.0).reshape(1, 3, 3, 1) / 9
    views = np.asarray(shifted(x0, 2))[0, ..., 0]
    image = np.asarray(x0)[0, ..., 0]
    assert views.shape == (4, 3, 3)
    np.testing.assert_array_equal(views[0], image)
    np.testing.assert_array_equal(views[1][:, 1:], image[:, :-1])
    np.testing.assert_array_equal(views[2][1:], image[:-1])
    np.testing.assert_array_equal(views[3][1:, 1:], image[:-1, :-1])
    for view, black in ((views[1], np.s_[:, 0]), (views[2], np.s_[0])):
        np.testing.assert_array_equal(view[black], -1)


def test_features_are_means_under_one_noise_and_each_images_time():
    rng = np.random.default_rng(0)
    x0, noise = jnp.asarray(rng.uniform(-1, 1, (2, 3, 4, 4, 1)), jnp.float32)
    time = jnp.array([1.0, 2.0, 3.0])

    class Noisy(Pixels):
        def __call__(self, params, x0, noise, time):
            return super().__call__(
                params, x0 + time[:, None, None, None] * noise, 0, 0
            )

    (found,) = Shifted(Noisy(), 3)({}, x0, noise, time).values()
    expected = shifted(x0, 3).mean(1) + time[:, None, None, None] * noise
    np.testing.assert_allclose(found, expected.reshape(3, 16), atol=1e-6)
    assert Shifted(Pixels(), 3).names == ("pixels",)
    same = Shifted(Pixels(), 1)({}, x0, noise, 1.0)["pixels"]
    np.testing.assert_array_equal(same, x0.reshape(3, 16))
