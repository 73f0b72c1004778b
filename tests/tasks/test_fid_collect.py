"""Streaming features: any batch size, any number of devices, image sets on disk."""

import json
import subprocess
import sys

import numpy as np
import pytest

from ddae_jax.data import unlabelled
from ddae_jax.errors import UserError
from ddae_jax.metrics.inception_score import score_sums
from ddae_jax.metrics.scores import inception_score
from ddae_jax.runtime import parallel
from ddae_jax.tasks.fid import collect as fid_features
from ddae_jax.tasks.fid.feature_network import chain_network
from tests.tools import fid as fid_tools
from tests.tools import runs as run_tools

# One process, whose first 1, 2 and 8 devices work.
PROGRAM = """
import json, pathlib, sys
import jax, numpy as np
from jax.sharding import AxisType, Mesh
from ddae_jax.data import unlabelled
from ddae_jax.runtime import parallel
from ddae_jax.tasks.fid import collect as fid_features
from ddae_jax.tasks.fid.feature_network import chain_network
from ddae_jax.weights import layer_chain
folder, images, batch_size = sys.argv[1:]
network = chain_network(layer_chain.read(pathlib.Path(folder)))
found = {}
for count in (1, 2, 8):
    devices = np.array(jax.devices()[:count]).reshape(-1, 1)
    mesh = Mesh(devices, parallel.BATCH_AXES, axis_types=(AxisType.Auto,) * 2)
    source = unlabelled.open_npz(images)
    collected = fid_features.collect(
        fid_features.extractor(network, mesh),
        fid_features.source_batches(source, mesh, int(batch_size)),
        fid_features.start(network, len(source), keep=7),
    )
    statistics = collected.statistics()
    found[devices.size] = {
        "count": collected.count,
        "mean": statistics.mean.tolist(),
        "covariance": statistics.covariance.tolist(),
        "kept": collected.features().tolist(),
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return fid_tools.write_network(tmp_path_factory.mktemp("fid") / "net")


def measure(file, source, batch_size, keep=0):
    network, mesh = chain_network(file), parallel.make_mesh()
    return fid_features.collect(
        fid_features.extractor(network, mesh),
        fid_features.source_batches(source, mesh, batch_size),
        fid_features.start(network, len(source), keep),
    )


def expected(file, pixels):
    features = np.asarray(file.chain(file.tensors, pixels), np.float64)
    return features.mean(axis=0), np.cov(features.T), features


@pytest.mark.slow
def test_statistics_do_not_depend_on_the_devices(network, tmp_path):
    pixels = fid_tools.images(37, 0)
    images, folder = tmp_path / "images.npz", tmp_path / "net"
    np.savez_compressed(images, arr_0=pixels)
    fid_tools.write_network(folder)
    mean, covariance, features = expected(network, pixels)
    chosen = fid_features.chosen(37, 7)
    output = subprocess.run(
        # a last batch that is not full, and has nothing for some devices
        [sys.executable, "-c", PROGRAM, folder, images, "16"],
        cwd=run_tools.ROOT,
        env=run_tools.environment(8) | {"PYTHONPATH": str(run_tools.ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert output.returncode == 0, output.stderr
    by_devices = json.loads(output.stdout)
    assert list(by_devices) == ["1", "2", "8"]
    for found in by_devices.values():
        assert found["count"] == 37
        np.testing.assert_allclose(found["mean"], mean, rtol=1e-6)
        scale = np.abs(covariance).max()
        np.testing.assert_allclose(found["covariance"], covariance, atol=1e-6 * scale)
        np.testing.assert_allclose(
            found["kept"], features[chosen], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("batch_size", [1, 5, 37, 64])
def test_statistics_do_not_depend_on_the_batch(network, tmp_path, batch_size):
    pixels = fid_tools.images(37, 0)
    source = unlabelled.open_folder(fid_tools.write_folder(tmp_path / "set", pixels))
    assert source.images is None and len(source) == 37
    collected = measure(network, source, batch_size)
    mean, covariance, _ = expected(network, pixels)
    assert collected.count == 37 and collected.features() is None
    found = collected.statistics()
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6)
    scale = np.abs(covariance).max()
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-6 * scale)


def test_blocks_of_sums_and_kept_features(network, monkeypatch):
    monkeypatch.setattr(fid_features, "_BLOCK", 8)
    pixels = fid_tools.images(37, 0)
    source = unlabelled._source("images", 37, (8, 8, 1), lambda chosen: pixels[chosen])
    seen = []
    network_of_chain, mesh = chain_network(network), parallel.make_mesh()
    extract = fid_features.extractor(network_of_chain, mesh)

    def collect(collected, first=0):
        rest = unlabelled._source(
            "rest", 37 - first, (8, 8, 1), lambda chosen: pixels[first + chosen]
        )
        batches = fid_features.source_batches(rest, mesh, 5)
        return fid_features.collect(extract, batches, collected, seen.append)

    start = fid_features.start(network_of_chain, 37, keep=12)
    whole = collect(start)
    assert [part.count for part in seen] == [10, 20, 30, 37]
    assert whole.features().shape == (12, fid_tools.WIDTH)
    np.testing.assert_allclose(
        whole.features(),
        expected(network, pixels)[2][fid_features.chosen(37, 12)],
        rtol=1e-5,
        atol=1e-5,
    )
    # A job that goes on from image 20 gives what the whole one gives.
    resumed = collect(seen[1], first=20)
    np.testing.assert_allclose(
        resumed.statistics().covariance, whole.statistics().covariance, rtol=1e-6
    )
    np.testing.assert_array_equal(resumed.features(), whole.features())
    with pytest.raises(UserError, match="40 images instead of 41"):
        fid_features.collect(
            extract,
            fid_features.source_batches(source, mesh, 5),
            fid_features.start(network_of_chain, 41),
        )


def test_what_stands_for_a_set_is_spread_over_it():
    chosen = fid_features.chosen(1000, 300)
    assert len(set(chosen)) == 300 and (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, fid_features.chosen(1000, 300))
    by_tenths = np.bincount(chosen // 100, minlength=10)
    assert by_tenths.min() > 15 and by_tenths.max() < 45
    assert len(fid_features.chosen(5, 0)) == 0
    np.testing.assert_array_equal(fid_features.chosen(5, 9), np.arange(5))


@pytest.mark.parametrize("splits", [1, 3])
def test_the_streamed_inception_score_is_that_of_all_logits(splits):
    logits = 3 * np.random.default_rng(0).standard_normal((41, 6)).astype("f")
    sums = score_sums(41, splits, 6)
    for start, stop in [(0, 1), (1, 15), (15, 41)]:
        sums = sums.add(logits[start:stop])
    ours, whole = sums.score(), inception_score(logits, splits)
    assert ours.mean == pytest.approx(whole.mean, rel=1e-12)
    assert ours.standard_deviation == pytest.approx(whole.standard_deviation, abs=1e-12)
    with pytest.raises(UserError, match="42 samples for a score of 41"):
        sums.add(logits[:1])
    with pytest.raises(UserError, match="15 of 41 samples"):
        score_sums(41, splits, 6).add(logits[:15]).score()
    with pytest.raises(UserError, match="5 samples in 3 parts"):
        score_sums(5, 3, 6)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_read_without_holding_it(tmp_path, save):
    pixels = fid_tools.images(20, 0, (4, 6, 3))
    save(tmp_path / "set.npz", arr_0=pixels, arr_1=np.arange(20))
    source = unlabelled.open_npz(tmp_path / "set.npz")
    assert source.image_shape == (4, 6, 3) and len(source) == 20
    for chosen in ([0, 1, 2], [17, 18, 19, 19, 19], [5]):  # filling, and backwards
        np.testing.assert_array_equal(source.read(chosen), pixels[chosen])


def test_image_sets_that_cannot_be_used_are_named(tmp_path):
    def refused(opened, path, message):
        with pytest.raises(UserError, match=message) as raised:
            opened(path)
        assert "\n" not in str(raised.value) and str(path) in str(raised.value)

    empty = tmp_path / "empty"
    empty.mkdir()
    refused(unlabelled.open_folder, empty, "a folder without images")
    refused(unlabelled.open_folder, tmp_path / "none", "no such folder")
    mixed = fid_tools.write_folder(tmp_path / "mixed", fid_tools.images(2, 0))
    fid_tools.write_folder(mixed / "more", fid_tools.images(1, 0, (9, 9, 1)))
    refused(unlabelled.open_folder, mixed, "9x9, 1 channel.*of one size")
    colours = fid_tools.write_folder(tmp_path / "colours", fid_tools.images(2, 0))
    fid_tools.write_folder(colours / "more", fid_tools.images(1, 0, (8, 8, 3)))
    with pytest.raises(UserError, match=r"8x8, 3 channel\(s\), but .* 8x8, 1 channel"):
        unlabelled.open_folder(colours).read([0, 1, 2])
    assert unlabelled.open_folder(colours, 3).read([0, 2]).shape == (2, 8, 8, 3)

    path = tmp_path / "floats.npz"
    np.savez(path, arr_0=np.zeros((2, 8, 8, 1)))
    refused(unlabelled.open_npz, path, "float64.* not uint8 NHWC")
    np.savez(path, images=np.zeros(3))
    refused(unlabelled.open_npz, path, "no .npz file with images arr_0")
    path.write_bytes(b"nothing")
    refused(unlabelled.open_npz, path, "no .npz file")
