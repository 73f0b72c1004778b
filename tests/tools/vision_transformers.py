"""Checks that every vision transformer passes, for test_uvit, test_dit and so on."""

import jax
import jax.numpy as jnp
import numpy as np

from ddae_jax.weights import torch_layout
from tests.tools import golden_values


def parameter_shapes(network, image_shape):
    return jax.eval_shape(
        network.init, jax.random.key(0), jnp.zeros((1, *image_shape)), jnp.ones(1)
    )["params"]


def parameter_count(network, image_shape):
    shapes = parameter_shapes(network, image_shape)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def golden(name, network, names):
    """Returns the parameters and the inputs (images, time, labels) of a golden file."""
    meta, arrays = golden_values.load(name)
    images = golden_values.nhwc(arrays["in/x"])
    params = torch_layout.from_torch(
        golden_values.state(meta),
        names(network),
        parameter_shapes(network, images.shape[1:]),
    )
    return params, (images, arrays["in/t"], arrays.get("in/y"))


def apply_with_taps(network, params, inputs):
    """Returns the output and tap -> block output, of one forward pass."""
    paths = network.tap_paths()

    def apply(params, inputs):
        return network.apply(
            {"params": params},
            *inputs,
            capture_intermediates=lambda module, _: (
                "/".join(module.path) in paths.values()
            ),
            mutable=["intermediates"],
        )

    output, state = jax.jit(apply)(params, inputs)
    captured = state["intermediates"]
    return output, {tap: captured[paths[tap]]["__call__"][0] for tap in paths}


def check_golden(name, network, names, tolerance=1e-5):
    """Output and all taps are those of the published network."""
    _, arrays = golden_values.load(name)
    params, inputs = golden(name, network, names)
    output, taps = apply_with_taps(network, params, inputs)
    expected = golden_values.nhwc(arrays["out/y"])
    errors = {"out/y": golden_values.relative_error(output, expected)}
    assert {f"act/{tap}" for tap in taps} == {key for key in arrays if "act/" in key}
    for tap, ours in taps.items():
        errors[tap] = golden_values.relative_error(ours, arrays[f"act/{tap}"])
    print(f"{name}: largest deviation {max(errors.values()):.1e}")
    assert max(errors.values()) < tolerance, errors


def check_round_trip(name, network, names):
    """Torch's tensors come back bit by bit."""
    meta, _ = golden_values.load(name)
    params, _ = golden(name, network, names)
    state = golden_values.state(meta)
    again = torch_layout.to_torch(params, names(network))
    assert again.keys() == state.keys()
    for key in state:
        np.testing.assert_array_equal(again[key], state[key])


def check_gradients(network, params, inputs, fixed=()):
    """The gradient is a finite difference's, and recomputation changes neither.

    Fixed parameters get no gradient.
    """
    target = np.random.default_rng(0).standard_normal(
        jax.eval_shape(network.apply, {"params": params}, *inputs).shape
    )

    def loss_of(network):
        def loss(params):
            output = network.apply({"params": params}, *inputs)
            return jnp.mean((output - target) ** 2)

        return loss

    plain = jax.jit(jax.value_and_grad(loss_of(network)))
    value, gradient = plain(params)
    value_again, recomputed = jax.jit(
        jax.value_and_grad(loss_of(network.clone(remat="full")))
    )(params)
    np.testing.assert_allclose(value, value_again, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        gradient,
        recomputed,
    )
    for path in fixed:
        leaf = gradient
        for part in path.split("/"):
            leaf = leaf[part]
        assert not np.any(leaf)

    # Along the gradient itself the slope is the gradient's norm.
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)))
    step = 1e-2

    def at(length):
        return plain(
            jax.tree.map(lambda p, g: p + length / norm * g, params, gradient)
        )[0]

    slope = (at(step) - at(-step)) / (2 * step)
    np.testing.assert_allclose(slope, norm, rtol=5e-3)


def check_bfloat16(network, params, inputs):
    """bfloat16 gives a float32 output near the one that float32 gives."""
    half = network.clone(dtype=jnp.bfloat16)
    output, exact = (
        jax.jit(net.apply)({"params": params}, *inputs) for net in (half, network)
    )
    assert output.dtype == jnp.float32
    error = jnp.linalg.norm(output - exact) / jnp.linalg.norm(exact)
    print(f"bfloat16: relative deviation {error:.1e}")
    assert error < 3e-2
