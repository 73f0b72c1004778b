"""Alignment and uniformity against the values of DDAE's code."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.errors import UserError
from ddae_jax.metrics import contrastive
from tests.tools import golden_values


def test_metrics_match_the_published_code():
    _, arrays = golden_values.load("contrastive")
    x, y = arrays["x"], arrays["y"]
    np.testing.assert_allclose(
        contrastive.alignment(jnp.asarray(x), jnp.asarray(y)),
        arrays["alignment"],
        rtol=1e-5,
    )
    for name, features in (("x", x), ("y", y)):
        np.testing.assert_allclose(
            contrastive.uniformity(jnp.asarray(features)),
            arrays[f"uniformity_{name}"],
            rtol=1e-5,
        )


def test_batches_are_normalised_and_averaged():
    _, arrays = golden_values.load("contrastive")
    x, y = arrays["x"], arrays["y"]
    found = contrastive.alignment_and_uniformity(5 * x, y / 3, batch_size=64)
    np.testing.assert_allclose(found.alignment, arrays["alignment"], rtol=1e-5)
    mean = (arrays["uniformity_x"] + arrays["uniformity_y"]) / 2
    np.testing.assert_allclose(found.uniformity, mean, rtol=1e-5)

    halves = contrastive.alignment_and_uniformity(x, y, batch_size=32)
    parts = [
        contrastive.uniformity(jnp.asarray(part))
        for view in (x, y)
        for part in np.split(view, 2)
    ]
    np.testing.assert_allclose(halves.uniformity, np.mean(parts), rtol=1e-5)
    np.testing.assert_allclose(halves.alignment, found.alignment, rtol=1e-5)
    assert halves.batch_size == 32


def test_every_sample_counts_also_a_last_single_one():
    _, arrays = golden_values.load("contrastive")
    x, y = arrays["x"], arrays["y"]
    for batch_size in (63, 60, 21):
        found = contrastive.alignment_and_uniformity(x, y, batch_size=batch_size)
        np.testing.assert_allclose(found.alignment, arrays["alignment"], rtol=1e-5)
    joined = contrastive.alignment_and_uniformity(x, y, batch_size=63)
    whole = contrastive.alignment_and_uniformity(x, y, batch_size=64)
    assert joined.uniformity == whole.uniformity


@pytest.mark.parametrize("chunk", [1, 7, 21, 64])
def test_bit_by_bit_is_all_at_once(chunk):
    _, arrays = golden_values.load("contrastive")
    x, y = arrays["x"], arrays["y"]
    for batch_size in (63, 60, 21, 64, 100):
        running = contrastive.Running(batch_size)
        for start in range(0, len(x), chunk):
            running.add(x[start : start + chunk], y[start : start + chunk])
        found = running.result()
        whole = contrastive.alignment_and_uniformity(x, y, batch_size=batch_size)
        np.testing.assert_allclose(found.alignment, whole.alignment, rtol=1e-6)
        np.testing.assert_allclose(found.uniformity, whole.uniformity, rtol=1e-6)
    with pytest.raises(UserError, match="no samples"):
        contrastive.Running(8).result()


def test_equal_views_align_and_equal_features_are_not_uniform():
    x = np.random.default_rng(0).standard_normal((8, 4))
    assert contrastive.alignment_and_uniformity(x, x, batch_size=8).alignment < 1e-12
    equal = np.ones((8, 4))
    found = contrastive.alignment_and_uniformity(equal, equal, batch_size=8)
    assert abs(found.uniformity) < 1e-6


def test_unusable_input_is_refused_in_one_line():
    x = np.ones((8, 4))
    for wrong, message in [
        ((x, x, 1), "batch size 1"),
        ((x[:1], x[:1], 8), "1 samples, at least 2"),
        ((x, x[:7], 8), "8 samples in the first view, 7 in the second"),
        ((x, x[:, :3], 8), "width 3, not 4"),
        ((x, x * np.nan, 8), "not finite"),
    ]:
        with pytest.raises(UserError, match=message) as raised:
            contrastive.alignment_and_uniformity(
                wrong[0], wrong[1], batch_size=wrong[2]
            )
        assert "\n" not in str(raised.value)
