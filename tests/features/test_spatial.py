"""What dense tasks are made of, against scikit-learn, torch and numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from ddae_jax.data import image_files, masks
from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.errors import UserError
from ddae_jax.features.encode import Encoder
from ddae_jax.features.spatial import GridEncoder, grid
from ddae_jax.heads import retrieval, segmentation
from ddae_jax.models.uvit import UViT
from tests.tools import dense as dense_tools

torch = pytest.importorskip("torch", reason="torch is the reference here")
pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)


def test_tokens_come_to_lie_where_their_patch_is():
    network = UViT(
        patch_size=2, hidden_size=32, depth=2, heads=2, image_channels=1, num_classes=0
    )
    denoiser = Denoiser(network, DDPM())
    key = jax.random.key(0)
    params = jax.jit(lambda key: denoiser.init(key, (8, 12, 1)))(key)
    encode = GridEncoder(Encoder(denoiser, ("block_0",), pooled=False))
    images = jax.random.normal(key, (2, 8, 12, 1))
    images = images.at[1].set(images[0].at[2:4, 8:10].add(1.0))
    taps = jax.jit(encode)(params, images, jnp.zeros_like(images), jnp.float32(1))[
        "block_0"
    ]
    assert taps.shape == (2, 4, 6, 32)
    change = np.abs(taps[1] - taps[0]).sum(-1)
    assert np.unravel_index(change.argmax(), change.shape) == (1, 4)


def test_a_grid_has_about_the_proportions_of_the_image():
    positions = jnp.arange(24.0).reshape(1, 12, 2)
    assert grid(positions, (28, 20)).shape == (1, 4, 3, 2)
    assert grid(positions, (20, 28)).shape == (1, 3, 4, 2)
    np.testing.assert_array_equal(grid(positions, (28, 20))[0, 1, 0], (6, 7))
    with pytest.raises(UserError, match="7 positions are no grid over 8x8 pixels"):
        grid(jnp.zeros((1, 7, 2)), (8, 8))


@pytest.mark.parametrize("batch", [1, 7, 50])
def test_neighbours_are_those_of_scikit_learn(batch):
    features, queries = RNG.normal(size=(50, 8)), RNG.normal(size=(6, 8))
    labels, query_labels = RNG.integers(0, 3, 50), RNG.integers(0, 3, 6)
    asked = retrieval.normalise(queries)
    nearest = retrieval.none_yet(6, 5)
    for start in range(0, 50, batch):
        indices = np.arange(start, min(start + batch, 50))
        part = retrieval.normalise(features[indices])
        nearest = retrieval.update(nearest, asked, indices, part)
    theirs = NearestNeighbors(n_neighbors=5, metric="cosine").fit(features)
    distances, indices = theirs.kneighbors(queries)
    np.testing.assert_array_equal(nearest.indices, indices)
    np.testing.assert_allclose(nearest.similarities, 1 - distances, atol=1e-6)
    expected = [
        np.mean(labels[row] == label)
        for row, label in zip(indices, query_labels, strict=True)
    ]
    found = retrieval.precision(nearest, query_labels, labels)
    np.testing.assert_allclose(found, expected)
    with pytest.raises(UserError, match="60 neighbours of 50 images"):
        retrieval.precision(retrieval.none_yet(6, 60), query_labels, labels)


def test_segmentation_loss_is_torchs():
    features = RNG.normal(size=(2, 3, 3, 4)).astype(np.float32)
    head = {
        "kernel": RNG.normal(size=(4, 5)).astype(np.float32),
        "bias": RNG.normal(size=5).astype(np.float32),
    }
    mask = RNG.integers(0, 5, (2, 8, 8)).astype(np.uint8)
    mask[:, 0] = masks.IGNORE
    scores = torch.tensor(features @ head["kernel"] + head["bias"]).movedim(3, 1)
    scores = torch.nn.functional.interpolate(
        scores, (8, 8), mode="bilinear", align_corners=False
    )
    ours = segmentation.logits(head, features, (8, 8))
    np.testing.assert_allclose(ours, scores.movedim(1, 3), atol=1e-5)
    for weights, images in (((1, 1), slice(None)), ((0, 1), slice(1, None))):
        theirs = torch.nn.functional.cross_entropy(
            scores[images], torch.tensor(mask[images]).long(), ignore_index=255
        )
        found = segmentation.loss(head, features, mask, jnp.array(weights, jnp.float32))
        assert float(found) == pytest.approx(float(theirs), rel=1e-5)
    ignored = np.full_like(mask, masks.IGNORE)
    assert segmentation.loss(head, features, ignored, jnp.ones(2)) == 0


def test_moments_of_batches_are_those_of_all_at_once():
    features = 1000 + RNG.normal(size=(10, 3, 3, 2)).astype(np.float32)
    features[..., 1] = 7.0
    moments = segmentation.Moments()
    for start in (0, 4, 8):
        batch = features[np.minimum(np.arange(start, start + 4), 9)]
        valid = np.arange(start, start + 4) < 10
        moments = moments.add({"tap": jnp.asarray(batch)}, jnp.asarray(valid))
    mean, scale = moments.statistics()["tap"]
    np.testing.assert_allclose(mean, features.mean((0, 1, 2), np.float64), rtol=1e-6)
    spread = features[..., 0].std(dtype=np.float64)
    np.testing.assert_allclose(scale, (spread, 1), rtol=1e-3)


@pytest.mark.parametrize("size", [(5, 7), (8, 8), (8, 20), (24, 16)])
@pytest.mark.parametrize("enlarge", [False, True])
def test_masks_go_where_their_images_go(tmp_path, size, enlarge):
    mask = np.zeros(size, np.uint8)
    mask[:, size[1] // 2 :] = 1
    dense_tools.save(tmp_path / "image.png", 50 + 200 * mask)
    image = image_files.read(tmp_path / "image.png", (8, 8, 1), enlarge)[..., 0]
    placed = masks.place(mask, (8, 8), enlarge)
    assert placed.shape == (8, 8)
    margin = placed == masks.IGNORE
    np.testing.assert_array_equal(margin, image == 0)
    assert margin.any() == (size == (5, 7) and not enlarge)
    # Bicubic filters differ from the nearest pixel at the edge of the two halves.
    agrees = (image > 150) == (placed == 1)
    assert agrees[~margin].mean() > 0.85
    if size == (8, 8):
        np.testing.assert_array_equal(placed, mask)


def test_palette_masks_hold_indices_not_colours(tmp_path):
    indices = RNG.integers(0, 4, (6, 6)).astype(np.uint8)
    picture = Image.fromarray(indices, "P")
    picture.putpalette(RNG.integers(0, 256, 768).astype(np.uint8).tobytes())
    picture.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(masks.read_mask(tmp_path / "mask.png"), indices)
