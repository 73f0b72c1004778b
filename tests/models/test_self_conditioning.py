"""Self-conditioning: plain while it is off, plain at first, then as re-derived."""

import dataclasses

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion import PROCESSES
from ddae_jax.errors import UserError
from ddae_jax.models import NETWORKS, dit, lightningdit, songunet_layers, unet, uvit
from ddae_jax.models.self_conditioning import SelfCondition, SelfConditioning
from ddae_jax.models.transformer import rotary_angles
from tests.tools import networks as tools

SHAPE = (8, 8, 3)
BATCH = 4
WHOLE = {
    "unet": NETWORKS["unet"](residual_resampling=True),
    "unet, convolutions between": NETWORKS["unet"](),
    "songunet": NETWORKS["songunet"](num_classes=3),
    "uvit": NETWORKS["uvit"](time_mlp=True),
    "uvit, classes": NETWORKS["uvit"](num_classes=3, null_class=True),
    "dit": NETWORKS["dit"](),
    "lightningdit": NETWORKS["lightningdit"](patch_size=2),
}
TRANSFORMERS = [name for name in WHOLE if "unet" not in name]
# Compiling these takes longest.
LONG = ("unet, convolutions between", "songunet", "lightningdit", "uvit, classes")
EVERY = [
    pytest.param(name, marks=pytest.mark.slow) if name in LONG else name
    for name in WHOLE
]
SLOW = ("unet", "songunet", "lightningdit")
OURS = ("self_condition", "summary_token")
# What takes the condition, and of UViT the tokens.
TAKERS = (
    *(unet.ResidualAttentionBlock, unet.ResidualBlock, songunet_layers.Block),
    *(uvit.Block, dit.Block, dit.FinalLayer, lightningdit.Block),
    lightningdit.FinalLayer,
)


# Compiling takes longer than these programs run.
QUICK = {"xla_backend_optimization_level": 0}


def switched(network, tap="default", **fields):
    return network.clone(self_condition=SelfConditioning(tap, **fields))


def tiny(name, tap="default", **fields):
    return switched(WHOLE[name].tiny(), tap, **fields)


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((BATCH, *SHAPE)).astype(np.float32)
    return images, np.linspace(-0.4, 0.9, BATCH, dtype=np.float32)


def apply(network, params):
    return jax.jit(network.apply)({"params": params}, *inputs())


def recorded(network, params):
    """[(path, arguments)] of modules that take a condition; and what is added to it."""
    calls, added = [], []

    def note(call, args, kwargs, context):
        module, result = context.module, call(*args, **kwargs)
        called = context.method_name == "__call__" and len(module.path) == 1
        if called and isinstance(module, TAKERS):
            calls.append((module.name, args, result))
        if isinstance(module, SelfCondition):
            added.append(result)
        return result

    with nn.intercept_methods(note):
        network.apply({"params": params}, *inputs())
    return calls, added


def rederived(settings, params, tap, embedding, extra_tokens):
    """The module in NumPy, float64."""
    tap = np.asarray(tap, np.float64)
    if settings.summary == "cls":
        summary = tap[:, 0]
    else:
        rows = tap.reshape(len(tap), -1, tap.shape[-1])[:, extra_tokens:]
        summary = rows.sum(1) / rows.shape[1]
    centred = summary - summary.mean(1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6)
    added = normal @ params["projection"]["kernel"] + params["projection"]["bias"]
    if settings.time_scaling:
        scale = embedding @ params["time_scale"]["kernel"]
        added = added * (scale + params["time_scale"]["bias"])
    return added


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_switched_off_or_new_it_is_the_plain_network(name):
    plain, on = tiny(name, ""), tiny(name)
    assert plain == WHOLE[name].tiny() and plain.self_condition_source() == ""
    images, time = inputs()
    key = jax.random.key(3)
    drawn, more = (jax.jit(n.init)(key, images, time)["params"] for n in (plain, on))
    assert set(more) == {*drawn, "self_condition"}
    new = {"self_condition": more["self_condition"]}
    jax.tree.map(np.testing.assert_array_equal, drawn | new, more)
    assert not np.any(new["self_condition"]["projection"]["kernel"])
    assert np.all(new["self_condition"]["time_scale"]["bias"] == 1)
    # A new network's output may be zero, so the rest is drawn.
    params = tools.random_params(plain, SHAPE)
    expected = apply(plain, params)
    assert np.ptp(expected) > 0
    np.testing.assert_array_equal(apply(on, params | new), expected)
    program, *others = (
        jax.jit(network.apply).lower({"params": params}, images, time).as_text()
        for network in (
            plain,
            tiny(name, "", summary="cls"),
            tiny(name, "", stop_gradient=True, time_scaling=False),
        )
    )
    assert others == [program, program]


@pytest.mark.parametrize("time_scaling", [True, False])
@pytest.mark.parametrize("summary", ["mean", "cls"])
@pytest.mark.parametrize("shape", [(5, 4, 6, 12), (5, 9, 12)])
def test_the_module_is_its_rederivation(shape, summary, time_scaling):
    if summary == "cls" and len(shape) == 4:
        return
    settings = SelfConditioning("x", time_scaling, summary=summary)
    module = SelfCondition(settings, jnp.float32)
    rng = np.random.default_rng(1)
    tap = (0.5 + rng.standard_normal(shape)).astype(np.float32)
    embedding = rng.standard_normal((5, 20)).astype(np.float32)
    extra = 2 if len(shape) == 3 else 0
    params = module.init(jax.random.key(0), tap, embedding, extra)["params"]
    assert ("time_scale" in params) == time_scaling
    params = jax.tree.map(
        lambda x: np.float32(rng.standard_normal(x.shape) / 4), params
    )
    found = module.apply({"params": params}, tap, embedding, extra)
    expected = rederived(settings, params, tap, embedding, extra)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_all_that_comes_later_takes_it_and_nothing_else(name):
    for tap in tiny(name).self_condition_taps():
        network = tiny(name, tap)
        params = tools.random_params(network, SHAPE)
        calls, (added,) = recorded(network, params)
        paths = [path for path, *_ in calls]
        source = paths.index(network.self_condition_path())
        if name.startswith("uvit"):
            check_tokens(network, calls, source, added)
            continue
        first = calls[0][1][1]
        for i, (path, args, _) in enumerate(calls):
            expected = first + added if i > source else first
            np.testing.assert_array_equal(args[1], expected, err_msg=path)
        assert source + 1 < len(calls), tap


def check_tokens(network, calls, source, added):
    """Tokens of the image alone, and a skip stays as the block left it."""
    skips = []
    for i, (_, args, result) in enumerate(calls):
        if i > 0:
            before = np.array(calls[i - 1][2])
            if i - 1 == source:
                before[:, network.extra_tokens :] += np.asarray(added)[:, None]
            np.testing.assert_array_equal(args[0], before)
        if i > network.depth // 2:
            np.testing.assert_array_equal(args[1], skips.pop())
        elif i < network.depth // 2:
            skips.append(result)


def gradients(network, params, fixed_tap=None):
    """Of a loss; with `fixed_tap` in place of what self-conditioning takes."""

    def fix(call, args, kwargs, context):
        if fixed_tap is not None and isinstance(context.module, SelfCondition):
            args = (fixed_tap, *args[1:])
        return call(*args, **kwargs)

    def loss(params):
        with nn.intercept_methods(fix):
            output = network.apply({"params": params}, *inputs())
        return (output**2).mean()

    found = jax.jit(jax.grad(loss), compiler_options=QUICK)(params)
    return flax.traverse_util.flatten_dict(found, sep="/")


@pytest.mark.parametrize(
    "name",
    [
        *("uvit", "dit"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
    ],
)
def test_the_trunk_is_trained_through_it_unless_stopped(name):
    network, stopped = tiny(name), tiny(name, stop_gradient=True)
    params = tools.random_params(network, SHAPE)
    np.testing.assert_array_equal(apply(stopped, params), apply(network, params))
    blind = params | {"self_condition": jax.tree.map(np.zeros_like, params[OURS[0]])}
    assert np.abs(apply(network, blind) - apply(network, params)).max() > 1e-4
    _, taps = tools.taps_of(network, params, *inputs())
    tap = taps[network.self_condition_source()]
    through, none = gradients(network, params), gradients(stopped, params)
    constant = gradients(network, params, tap)
    size = max(np.abs(leaf).max() for leaf in through.values())
    path = network.self_condition_path()
    for leaf, gradient in through.items():
        ours = leaf.startswith("self_condition/")
        assert not ours or np.any(gradient), leaf
        np.testing.assert_allclose(none[leaf], constant[leaf], atol=1e-6 * size)
    if name in ("uvit", "dit"):
        again = gradients(network.clone(remat="full"), params)
        for leaf, gradient in through.items():
            np.testing.assert_allclose(again[leaf], gradient, atol=1e-5 * size)
    differ = [np.abs(through[leaf] - none[leaf]).max() > 1e-4 * size for leaf in none]
    assert any(d for d, leaf in zip(differ, none, strict=True) if path + "/" in leaf)
    assert not any(d for d, leaf in zip(differ, none, strict=True) if "final" in leaf)


@pytest.mark.parametrize("name", ["unet", "uvit", "dit"])
def test_taps_up_to_the_source_do_without_it(name):
    network = tiny(name)
    process = PROCESSES["dit" if network.learned_variance else "ddpm"]()
    denoiser = Denoiser(network, process)
    params = tools.random_params(network, SHAPE)
    names, source = list(network.tap_paths()), network.self_condition_source()

    def sums(ours):
        given = params | {OURS[0]: ours}
        taps = denoiser.taps(given, jnp.asarray(inputs()[0]), jnp.ones(BATCH), names)
        return {tap: value.sum() for tap, value in taps.items()}

    slopes = jax.jit(jax.jacrev(sums), compiler_options=QUICK)(params[OURS[0]])
    for tap in names:
        later = names.index(tap) > names.index(source)
        assert np.any(slopes[tap]["projection"]["kernel"]) == later, tap


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY[-len(TRANSFORMERS) :])
def test_a_summary_token_comes_first_and_is_no_part_of_the_image(name):
    plain, network = tiny(name, ""), tiny(name, summary="cls")
    assert network.extra_tokens == plain.extra_tokens + 1
    params = tools.random_params(network, SHAPE)
    assert set(params) == {*tools.random_params(plain, SHAPE), *OURS}
    output, taps = tools.taps_of(network, params, *inputs())
    shared = {key: value for key, value in params.items() if key not in OURS}
    expected, before = tools.taps_of(plain, shared, *inputs())
    assert output.shape == expected.shape
    for tap, value in taps.items():
        assert value.shape[1] == before[tap].shape[1] + 1
    found = gradients(network, params)
    assert np.any(found["summary_token/token"])
    assert np.any(found["self_condition/projection/kernel"])
    # The image's tokens keep their positions: only attention makes them differ.
    first = next(iter(taps))
    assert not np.array_equal(taps[first][:, network.extra_tokens :], before[first])
    # It has none: at first it is the same for every image.
    calls, (added,) = recorded(network, params)
    tokens = np.asarray(calls[0][1][0])
    plain_tokens = np.asarray(recorded(plain, shared)[0][0][1][0])
    np.testing.assert_array_equal(tokens[:, 1:], plain_tokens)
    token = np.broadcast_to(params["summary_token"]["token"], tokens[:, 0].shape)
    np.testing.assert_array_equal(tokens[:, 0], token)
    assert added.shape == (BATCH, network.hidden_size)


def test_a_summary_token_does_not_turn():
    plain, more = rotary_angles((2, 3), 8), rotary_angles((2, 3), 8, 1)
    for before, after, still in zip(plain, more, (1, 0), strict=True):
        np.testing.assert_array_equal(after[1:], before)
        assert np.all(after[0] == still)


@pytest.mark.parametrize("name", WHOLE)
def test_sources_are_taps_in_order_of_depth_each_once(name):
    whole = WHOLE[name]
    paths, sources = whole.tap_paths(), whole.self_condition_taps()
    assert list(sources) == [tap for tap in paths if tap in sources]
    assert len({paths[tap] for tap in sources}) == len(sources)
    assert switched(whole).self_condition_source() in sources
    for network in (whole, whole.tiny()):
        last = list(dict.fromkeys(network.tap_paths().values()))[-1]
        used = {network.tap_paths()[tap] for tap in network.self_condition_taps()}
        assert (last in used) == (name in TRANSFORMERS)
    for i, tap in enumerate(sources):
        small = switched(whole, tap).tiny()
        after = small.self_condition_taps()
        depth = after.index(small.self_condition_source()) / (len(after) - 1)
        assert abs(depth - i / (len(sources) - 1)) <= 0.5
        assert small == small.tiny()
    for tap in ("auto", "default", ""):
        assert switched(whole, tap).tiny().self_condition.tap == tap


def test_the_default_sources():
    names = {"unet": "out_3", "songunet": "dec.8x8_block4"}
    names |= {"uvit": "block_6", "dit": "layer-14", "lightningdit": "layer-14"}
    for name, tap in names.items():
        assert switched(NETWORKS[name]()).self_condition_source() == tap
    # A block of two names is one source.
    song = switched(NETWORKS["songunet"](), "out_5")
    assert song.self_condition_path() == "dec_8x8_block4"
    assert song.tiny().self_condition.tap in song.tiny().self_condition_taps()
    edm2 = NETWORKS["edm2"]()
    assert not edm2.self_condition_taps() and edm2.self_condition_source() == ""


ERRORS = {
    ("unet", "out_99", "mean"): "network.self_condition.tap: unknown 'out_99'. Did you",
    ("unet", "out_4", "mean"): "tap: nothing after out_4 takes the condition. Known: ",
    ("songunet", "out_4", "mean"): "tap: nothing after out_4 takes the condition",
    ("songunet", "dec.8x8_aux_norm", "mean"): "nothing after dec.8x8_aux_norm takes",
    ("unet", "default", "cls"): "summary: cls is a token of a transformer, and UNet",
    ("songunet", "auto", "cls"): "summary: cls is a token of a transformer, and Song",
    ("dit", "auto", "mean"): "network.self_condition.tap is auto: pretraining chooses",
    ("lightningdit", "layer_0", "mean"): "Did you mean 'layer-0'? Known: auto, default",
    ("uvit", "x" * 200, "mean"): "tap: unknown 'xxxx",
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_cannot_be_is_said_in_one_line(case):
    name, tap, summary = case
    network = tiny(name, tap, summary=summary)
    with pytest.raises(UserError) as raised:
        tools.shapes_of(network, SHAPE)
    assert ERRORS[case] in str(raised.value) and "\n" not in str(raised.value)


def test_settings_are_checked_where_they_are_given():
    network = NETWORKS["unet"]()
    with pytest.raises(UserError, match=r"self_condition\.summary: unknown 'max'"):
        switched(network, summary="max")
    with pytest.raises(UserError, match=r"self_condition\.tap: 3 is not text"):
        switched(network, 3)
    with pytest.raises(UserError, match=r"UNet\.self_condition: 'out_3' is no"):
        network.clone(self_condition="out_3")
    assert dataclasses.replace(SelfConditioning("out_3")) == SelfConditioning("out_3")
    assert hash(switched(network)) != hash(network)
