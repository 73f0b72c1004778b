"""Alignment with given features against plain code, and what files can hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.data import source as data_source
from ddae_jax.errors import UserError
from ddae_jax.models import pooling
from ddae_jax.train.objectives.alignment import Alignment, open_features
from ddae_jax.train.step import Keys
from tests.tools import objectives as tools

TERM = Alignment(on=True, weight=2.0, features="x", hidden=12)
RNG = np.random.default_rng(0)
MAPS = RNG.standard_normal((tools.COUNT, 3, 2, 5)).astype(np.float32)
POOLED = RNG.standard_normal((tools.COUNT, 5)).astype(np.float16)


def cosines(predicted, target):
    lengths = [jnp.sqrt((x**2).sum(-1)) for x in (predicted, target)]
    return (predicted * target).sum(-1) / lengths[0] / lengths[1]


@pytest.mark.slow
@pytest.mark.parametrize("features", [MAPS, POOLED], ids=["maps", "pooled"])
def test_two_optimiser_steps_match_plain_code(features):
    recipe = tools.recipe_of(tools.DIT, ("alignment", TERM), flip=True)

    def term(own, teacher, examples, drawn, params, ema, taps):
        target = jnp.asarray(features, jnp.float32)
        tap = taps["layer-1"]
        if features.ndim == 4:
            mirrored = examples.flipped[:, None, None, None]
            target = jnp.where(mirrored, target[:, :, ::-1], target)
            tap = tools.bilinear(tap.reshape(8, 4, 4, 32), (3, 2))
        else:
            tap = tap.mean(1)
        values = cosines(tools.mlp(own["projector"], tap, False), target)
        return -values.mean(), {"cosine": values.mean()}

    batch = tools.batch_of({"alignment/features": features})
    examples, _ = recipe.draw(jnp.int32(1), batch, Keys.of(0))
    assert 0 < examples.flipped.sum() < tools.COUNT
    metrics = tools.check_two_steps(recipe, batch, term)
    wanted = metrics["loss"] - 2 * metrics["alignment/cosine"]
    np.testing.assert_allclose(metrics["total_loss"], wanted, rtol=1e-5)


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (7, 9), (2, 2), (3, 1), (2, 5)])
def test_grids_are_matched_by_bilinear_interpolation(size):
    maps = RNG.standard_normal((2, 4, 3, 5)).astype(np.float32)
    found = pooling.matched(jnp.asarray(maps), size)
    np.testing.assert_allclose(found, tools.bilinear(maps, size), atol=1e-5)


@pytest.mark.slow
def test_larger_grids_are_those_of_pytorch():
    torch = pytest.importorskip("torch", reason="torch is the reference here")
    maps = RNG.standard_normal((2, 4, 3, 5)).astype(np.float32)
    channels_first = torch.from_numpy(maps).permute(0, 3, 1, 2)
    for size in ((8, 6), (9, 7), (2, 2)):
        theirs = torch.nn.functional.interpolate(
            channels_first, size, mode="bilinear", antialias=True
        )
        found = pooling.matched(jnp.asarray(maps), size)
        np.testing.assert_allclose(found, theirs.permute(0, 2, 3, 1), atol=1e-5)


@pytest.mark.parametrize(
    "features",
    [
        pytest.param(MAPS, id="maps", marks=pytest.mark.slow),
        pytest.param(POOLED, id="pooled"),
    ],
)
def test_equal_or_empty_features_leave_every_gradient_finite(features):
    recipe = tools.recipe_of(tools.DIT, ("alignment", TERM))
    batch = tools.batch_of({"alignment/features": features})
    state = tools.state_of(recipe, batch)
    own = jax.tree.map(jnp.zeros_like, state.objectives["alignment"].params)
    examples, _ = recipe.draw(state.step, batch, Keys.of(0))
    target = jnp.asarray(features, jnp.float32).at[0].set(0)

    def loss(own, tap):
        student = tools.pass_of(recipe, state, examples, {"layer-1": tap})
        return TERM(own, {}, {"features": target}, student)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))(
        own, jnp.ones((8, 16, 32))
    )
    assert value == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_features_are_of_images_that_are_not_warped():
    images = np.zeros((8, *tools.SHAPE), np.uint8)
    source = data_source.from_arrays("x", "train", images, [0] * 8, ("a",))
    TERM.check(tools.setup_of(tools.DIT, source))
    warped = tools.setup_of(tools.UNET, source, augment_probability=0.1)
    with pytest.raises(UserError, match="augment_probability=0"):
        TERM.check(warped)


def test_an_array_is_mapped_from_its_file(tmp_path, monkeypatch):
    path = tmp_path / "features.npy"
    images = np.zeros((8, *tools.SHAPE), np.uint8)
    source = data_source.from_arrays("x", "train", images, [0] * 8, ("a",))
    for features in (MAPS, POOLED, MAPS.astype(np.float64)):
        np.save(path, features)
        objective = tools.changed(TERM, features=str(path))
        found = objective.arrays(tools.setup_of(tools.DIT, source))["features"]
        assert isinstance(found, np.memmap) and found.dtype == features.dtype
        np.testing.assert_array_equal(found, features)
    monkeypatch.setenv("HOME", str(tmp_path))
    np.testing.assert_array_equal(open_features("~/features.npy", 8), MAPS)


def saved(array):
    def write(path):
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=True)

    return write


def archive(path):
    with path.open("wb") as file:
        np.savez(file, MAPS)


def cut(path):
    np.save(path, MAPS)
    path.write_bytes(path.read_bytes()[:-1])


def header(text):
    whole = text.encode().ljust(117) + b"\n"
    return lambda path: path.write_bytes(
        b"\x93NUMPY\x01\x00" + len(whole).to_bytes(2, "little") + whole
    )


KIND = "not an array of float16, float32 or float64"


@pytest.mark.parametrize(
    "write, message",
    [
        (lambda path: None, "there is no file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "not an .npy array"),
        (lambda path: path.write_bytes(b"features\n"), "not an .npy array"),
        (lambda path: path.write_bytes(b"PK\x03\x04damaged"), "not an .npy array"),
        (cut, "not an .npy array"),
        (header("{'descr': "), "not an .npy array"),
        (
            header("{'descr': '<f4', 'fortran_order': False, 'shape': ('a',)}"),
            "an .npy",
        ),
        (header("(" * 100), "not an .npy array"),
        (archive, "not an .npy array, but an archive"),
        (saved(MAPS.astype(object)), "not an .npy array"),
        (saved(MAPS.astype(int)), KIND),
        (saved(MAPS.astype(">f4")), KIND),
        (saved(MAPS.astype(np.longdouble)), KIND),
        (saved(MAPS[0]), r"shape \(3, 2, 5\); \(images, width\) or"),
        (saved(MAPS[:, :, :, :0]), r"shape \(8, 3, 2, 0\)"),
        (saved(MAPS[:7]), "7 rows, the training set has 8 images"),
    ],
)
def test_a_file_of_no_use_is_said_in_one_line(tmp_path, write, message):
    path = tmp_path / "features.npy"
    write(path)
    with pytest.raises(UserError, match=message) as error:
        open_features(str(path), 8)
    text = str(error.value)
    assert text.startswith("features: ") and "\n" not in text and len(text) < 600
    assert str(path) in text


def test_a_name_is_needed():
    with pytest.raises(UserError, match="features: name a"):
        open_features("", 8)
