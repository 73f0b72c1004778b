"""The noise-conditional classifier's training against the published code's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.tasks.noisy_classifier.classifier import (
    SGD,
    ClassifierState,
    NoisyClassifier,
    update,
)
from tests.tools import golden_values, wideresnet_golden

pytestmark = pytest.mark.slow


def test_training_follows_the_published_optimiser():
    network, params, arrays = wideresnet_golden.load()
    classifier = NoisyClassifier("golden", network, DDPM())
    optimizer = SGD(lambda step: 0.1, 0.9, 5e-4, network)
    state = ClassifierState(jnp.int32(0), params, optimizer.init(params))
    step = jax.jit(functools.partial(update, classifier, optimizer))
    images = golden_values.nhwc(arrays["in/images"])
    losses = []
    for _ in range(3):
        state, metrics = step(state, images, arrays["in/time"], arrays["in/labels"])
        losses.append(metrics["loss"].compute())
    np.testing.assert_allclose(losses, arrays["out/losses"], rtol=1e-5)
    np.testing.assert_array_equal(
        state.params["fourier"]["frequencies"], arrays["out/frequencies"]
    )
    bias = state.params["classes"]["bias"]
    assert golden_values.relative_error(bias, arrays["out/final_bias"]) < 1e-5
