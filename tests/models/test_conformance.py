"""Every network keeps the contract of models/base.py, whatever its kind."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.errors import UserError
from ddae_jax.models import NETWORKS
from ddae_jax.models.self_conditioning import SelfConditioning
from ddae_jax.settings import fields
from tests.tools import networks as tools

SUMMARY_TOKEN = SelfConditioning("default", summary="cls")
CASES = {
    **{name: cls().tiny() for name, cls in NETWORKS.items()},
    "unet, DDPM++": NETWORKS["unet"](
        residual_resampling=True, head_channels=64, augment_channels=9
    ).tiny(),
    "songunet, NCSN++": NETWORKS["songunet"](
        fourier=True,
        noise_multiplier=2,
        residual_encoder=True,
        resample_filter=(1, 3, 3, 1),
        num_classes=5,
        augment_channels=9,
    ).tiny(),
    "edm2, E": NETWORKS["edm2"](weight_normalization=True, head_channels=64).tiny(),
    "uvit, with classes": NETWORKS["uvit"](
        num_classes=5, null_class=True, time_mlp=True, attention_bias=True
    ).tiny(),
    "uvit, always with classes": NETWORKS["uvit"](num_classes=5).tiny(),
    "dit, plain": NETWORKS["dit"](num_classes=0, learned_variance=False).tiny(),
    "lightningdit, patches": NETWORKS["lightningdit"](
        patch_size=2, mlp_features=100, num_classes=0
    ).tiny(),
    "unet, self-conditioned": NETWORKS["unet"](
        residual_resampling=True, self_condition=SelfConditioning("default")
    ).tiny(),
    "songunet, self-conditioned": NETWORKS["songunet"](
        self_condition=SelfConditioning("default", stop_gradient=True)
    ).tiny(),
    "uvit, summary token": NETWORKS["uvit"](
        num_classes=5, null_class=True, self_condition=SUMMARY_TOKEN
    ).tiny(),
    "dit, summary token": NETWORKS["dit"](self_condition=SUMMARY_TOKEN).tiny(),
    "lightningdit, self-conditioned": NETWORKS["lightningdit"](
        self_condition=SelfConditioning("layer-5", time_scaling=False)
    ).tiny(),
}
BATCH, SIDE, CHANNELS = 6, 8, 3
SHAPE = (BATCH, SIDE, SIDE, CHANNELS)

pytestmark = pytest.mark.parametrize(
    "network",
    [
        pytest.param(
            network, id=name, marks=[pytest.mark.slow] * (name not in NETWORKS)
        )
        for name, network in CASES.items()
    ],
)


def inputs_of(network, shape=SHAPE, null=False):
    """Images, time, labels and augmentation labels, as many as it takes."""
    rng = np.random.default_rng(1)
    images = rng.standard_normal(shape).astype(np.float32)
    time = np.linspace(-0.5, 0.9, len(images), dtype=np.float32)
    labels = augment = None
    if network.num_classes:
        labels = np.arange(len(images)) % network.num_classes
        labels = np.full_like(labels, network.null_label) if null else labels
    if network.augment_channels:
        size = (len(images), network.augment_channels)
        augment = 0.0 * images[:, 0, :1, 0] if null else rng.standard_normal(size)
        augment = np.broadcast_to(augment, size).astype(np.float32)
    return images, time, labels, augment


def rates_of(network):
    known = fields.declared(type(network))
    return {name for name in ("drop_path", "dropout") if name in known}


@functools.cache
def params_of(network):
    return tools.random_params(network, SHAPE[1:])


@functools.cache
def runs_of(network):
    """What one program per network computes.

    Output and taps; in training by two keys, and by the first again, recomputed.
    """
    dropping = network.clone(**{name: 0.5 for name in rates_of(network)})

    @jax.jit
    def run(params, inputs, key):
        output, taps = tools.taps_of(dropping, params, *inputs)
        trained, recomputed = (
            model.apply({"params": params}, *inputs, train=True, rngs={"dropout": key})
            for model in (dropping, dropping.clone(remat="full"))
        )
        return output, tuple(taps.values()), trained, recomputed  # jit sorts dicts

    params, inputs = params_of(network), inputs_of(network)
    output, taps, one, again = run(params, inputs, jax.random.key(0))
    *_, other, _ = run(params, inputs, jax.random.key(1))
    return output, dict(zip(network.tap_paths(), taps, strict=True)), one, other, again


def output_shape(network, shape=SHAPE):
    factor = 2 if network.learned_variance else 1
    return (*shape[:-1], factor * shape[-1])


def test_output_and_taps_are_finite_and_of_the_right_shape(network):
    output, taps, *_ = runs_of(network)
    assert output.shape == output_shape(network) and output.dtype == jnp.float32
    assert np.isfinite(output).all() and np.ptp(output) > 0
    assert len(taps) >= 2
    tokens = None
    for name, tap in taps.items():
        assert tap.shape[0] == BATCH and np.isfinite(tap).all(), name
        if tap.ndim == 3:  # of a transformer: all of the same shape
            tokens = tokens or tap.shape[1]
            assert tap.shape[1] == tokens
            assert math.isqrt(tokens - network.extra_tokens) ** 2 == (
                tokens - network.extra_tokens
            )
        else:
            assert tap.shape[1] == tap.shape[2] and network.extra_tokens == 0


def test_taps_come_in_order_of_depth(network):
    inputs = inputs_of(network, (1, *SHAPE[1:]))

    def taps(params):
        return tuple(tools.taps_of(network, params, *inputs)[1].values())

    jaxpr = jax.make_jaxpr(taps)(params_of(network)).jaxpr
    number = {id(v): i for i, eqn in enumerate(jaxpr.eqns) for v in eqn.outvars}
    depths = [number[id(v)] for v in jaxpr.outvars]
    assert depths == sorted(depths)


def test_it_drops_in_training_alone(network):
    assert rates_of(network)
    output, _, one, other, again = runs_of(network)
    np.testing.assert_allclose(one, again, rtol=1e-4, atol=1e-4)
    differ = np.any(np.asarray(one != other), axis=(1, 2, 3))
    assert differ.any() and np.any(np.asarray(one != output))
    for name in rates_of(network):
        with pytest.raises(UserError, match=f"{name}: 1.0 is not"):
            network.clone(**{name: 1.0})


def test_bfloat16_is_of_the_computation_alone(network):
    half = network.clone(dtype=jnp.bfloat16)
    output, taps = jax.eval_shape(
        lambda params: tools.taps_of(half, params, *inputs_of(half)), params_of(network)
    )
    assert output.dtype == jnp.float32
    assert {tap.dtype for tap in taps.values()} == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(tools.shapes_of(half, SHAPE[1:]))} == {
        jnp.dtype(jnp.float32)
    }


@pytest.mark.slow
def test_recomputation_has_the_same_parameters_and_output(network):
    again = network.clone(remat="full")
    assert tools.shapes_of(again, SHAPE[1:]) == tools.shapes_of(network, SHAPE[1:])
    output = jax.eval_shape(
        lambda params: again.apply({"params": params}, *inputs_of(again)),
        params_of(network),
    )
    assert output.shape == output_shape(network)


def test_the_time_reaches_the_output(network):
    output, *_ = runs_of(network)
    images, time, *labels = inputs_of(network)
    variables = {"params": params_of(network)}
    moved = jax.jit(network.apply)(variables, images, time + 0.3, *labels)
    differ = np.abs(np.asarray(moved - output)).max(axis=(1, 2, 3))
    assert (differ > 1e-3).all()


def test_no_labels_are_the_null_label(network):
    images, time, labels, augment = inputs_of(network)
    params = {"params": params_of(network)}
    if not network.num_classes:
        with pytest.raises(UserError, match="num_classes=0: it takes no class labels"):
            network.apply(params, images, time, np.zeros(BATCH, int), augment)
    if not network.augment_channels:
        with pytest.raises(UserError, match="it takes no augmentation labels"):
            network.apply(params, images, time, labels, np.zeros((BATCH, 9)))
    if network.num_classes and network.null_label is None:
        with pytest.raises(UserError, match="give it class labels"):
            network.apply(params, images, time)
        return
    if labels is None and augment is None:
        return
    apply = jax.jit(network.apply)
    none = apply(params, images, time)
    assert not np.allclose(none, runs_of(network)[0], atol=1e-3)
    null = inputs_of(network, null=True)
    np.testing.assert_allclose(apply(params, *null), none, rtol=1e-4, atol=1e-4)


def test_fixed_parameters_exist_and_get_no_gradient(network):
    params, inputs = params_of(network), inputs_of(network)
    trainable = network.trainable(params)
    assert jax.tree.structure(trainable) == jax.tree.structure(params)
    fixed = {path: tools.leaf_at(params, path) for path in network.fixed_parameters}
    kept = sum(not leaf for leaf in jax.tree.leaves(trainable))
    assert kept == len(fixed)
    if not fixed:
        return

    def loss(fixed):
        placed = jax.tree.map(lambda leaf: leaf, params)
        for path, leaf in fixed.items():
            *above, last = path.split("/")
            tools.leaf_at(placed, "/".join(above))[last] = leaf
        total = network.apply({"params": placed}, *inputs).sum()
        if network.uncertainty:
            variables = {"params": placed}
            total += network.apply(variables, inputs[1], method="log_variance").sum()
        return total

    gradient = jax.jit(jax.grad(loss))(fixed)
    assert not any(np.any(leaf) for leaf in gradient.values())


def test_projection_is_idempotent(network):
    params = params_of(network)
    once = jax.jit(network.project)(params)
    assert jax.tree.structure(once) == jax.tree.structure(params)
    twice = jax.jit(network.project)(once)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=5e-3), once, twice)


def test_the_log_variance_is_one_number_per_image(network):
    log_variance = jax.eval_shape(
        lambda params: network.apply(
            {"params": params}, jnp.ones(BATCH), method="log_variance"
        ),
        params_of(network),
    )
    assert log_variance.shape == (BATCH,)


def test_every_field_is_declared_with_bounds(network):
    cls = type(network)
    declared = fields.declared_within(cls)
    own = {field.name for field in dataclasses.fields(cls)} - {"parent", "name"}
    rest = own - declared.keys() - fields.sections(cls).keys()
    assert rest == {"dtype", "mesh"}  # of the whole run
    for name, (kind, default, bounds) in declared.items():
        assert 3 < len(bounds.help) < 160, name
        fields.check(name, default, kind, bounds)
        if fields.without_none(kind) in (int, float, tuple[int, ...]):
            assert bounds.least is not None or bounds.above is not None, name
            assert bounds.most is not None or bounds.below is not None, name
    with pytest.raises(UserError, match=f"{cls.__name__}.image_channels: 0 is not"):
        network.clone(image_channels=0)


def test_it_can_be_compared_hashed_and_copied(network):
    again = network.clone()
    assert again == network and hash(again) == hash(network)
    other = network.clone(image_channels=CHANNELS)
    assert other != network
    assert {network: 1}[again] == 1


def test_a_tiny_network_is_of_the_same_kind(network):
    tiny = network.clone(image_channels=CHANNELS).tiny()
    assert tiny == network.clone(image_channels=CHANNELS)  # CASES are tiny
    shapes = tools.shapes_of(tiny, SHAPE[1:])
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) < 1_000_000


def test_a_tiny_network_keeps_the_conditions_of_the_large_one(network):
    def conditions(network):
        return (
            type(network),
            network.image_channels,
            network.num_classes,
            network.null_label,
            network.augment_channels,
            network.extra_tokens,
            network.learned_variance,
            network.uncertainty,
            network.fixed_parameters,
        )

    large = type(network)(image_channels=4)
    assert conditions(large.tiny()) == conditions(large)


@pytest.mark.parametrize("channels", [1, 4])
def test_channels_are_those_of_the_images_unless_told(network, channels):
    shape = (1, SIDE, SIDE, channels)
    images, time, labels, _ = inputs_of(network, shape)

    def init(network):
        return network.init_with_output(jax.random.key(0), images, time, labels)[0]

    assert jax.eval_shape(lambda: init(network)).shape == output_shape(network, shape)
    told = network.clone(image_channels=channels)
    assert jax.eval_shape(lambda: init(told)).shape == output_shape(network, shape)
    with pytest.raises(UserError) as raised:
        init(network.clone(image_channels=3))
    assert str(raised.value) == (
        "the network takes 3 channels (network.image_channels), the images have "
        f"{channels}"
    )


@pytest.mark.parametrize("side", [6, 7, 9])
def test_images_of_other_sides_are_taken_or_refused_in_one_line(network, side):
    shape = (1, side, side, CHANNELS)
    try:
        shapes = tools.shapes_of(network, shape[1:])
    except UserError as error:
        assert f"{side}" in str(error) and "\n" not in str(error)
        return
    output = jax.eval_shape(
        lambda params: network.apply({"params": params}, *inputs_of(network, shape)),
        shapes,
    )
    assert output.shape == output_shape(network, shape)
