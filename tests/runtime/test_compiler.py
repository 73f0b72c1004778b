"""The compiler's options: known to this XLA, and harmless where they are not."""

import jax
import numpy as np
import pytest
from jax import lax

from ddae_jax.runtime import compiler


@pytest.fixture(autouse=True)
def fresh():
    compiler.compiler_options.cache_clear()
    compiler.options_for_one_call.cache_clear()
    yield
    compiler.compiler_options.cache_clear()
    compiler.options_for_one_call.cache_clear()


@pytest.fixture
def ynnpack_options():
    options = compiler.compiler_options()
    if options is None and jax.__version_info__ < (0, 10):
        pytest.skip("this XLA does not know the options: jax before 0.10")
    assert options is not None
    return options


def kernel_gradient(kernel, images):
    def convolve(kernel):
        return lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    return jax.grad(lambda kernel: (convolve(kernel) ** 2).sum())(kernel)


def test_convolutions_on_the_cpu_do_not_go_to_ynnpack(ynnpack_options):
    images = np.random.default_rng(0).normal(size=(4, 16, 16, 8)).astype(np.float32)
    kernel = np.random.default_rng(1).normal(size=(3, 3, 8, 8)).astype(np.float32)
    ours = jax.jit(kernel_gradient, compiler_options=ynnpack_options)
    text = ours.lower(kernel, images).compile().as_text()
    assert "convolution(" in text and "__ynn_fusion" not in text
    expected = jax.jit(kernel_gradient)(kernel, images)
    first = np.asarray(ours(kernel, images))
    np.testing.assert_allclose(first, expected, rtol=1e-4, atol=1e-3)
    for _ in range(5):
        np.testing.assert_array_equal(ours(kernel, images), first)


def test_sums_over_batch_and_pixels_on_the_cpu_go_to_ynnpack(ynnpack_options):
    images = np.random.default_rng(0).normal(size=(8, 16, 16, 32)).astype(np.float32)
    total = jax.jit(lambda x: (x * x).sum((0, 1, 2)), compiler_options=ynnpack_options)
    assert "__ynn_fusion" in total.lower(images).compile().as_text()
    expected = (images.astype(np.float64) ** 2).sum((0, 1, 2))
    first = np.asarray(total(images))
    np.testing.assert_allclose(first, expected, rtol=1e-5)
    for _ in range(5):
        np.testing.assert_array_equal(total(images), first)


def test_an_option_that_this_xla_lacks_is_left_out(monkeypatch):
    monkeypatch.setattr(compiler, "_CPU", {"xla_cpu_no_such_option": "1"})
    assert compiler.compiler_options() is None


def test_other_backends_keep_their_defaults(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiler.compiler_options() is None


def test_what_runs_once_is_compiled_by_other_options_and_is_the_same():
    options = compiler.options_for_one_call()
    assert options is not None  # this XLA knows them

    def draw(key):
        return jax.random.uniform(key, (3, 40))

    ours = jax.jit(draw, compiler_options=options)(jax.random.key(1))
    np.testing.assert_array_equal(ours, jax.jit(draw)(jax.random.key(1)))
