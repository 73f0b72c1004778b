"""Frechet distance: golden value, streaming sums, statistics files."""

import functools
import os
import pickle

import numpy as np
import pytest
import scipy.linalg

from ddae_jax.errors import UserError
from ddae_jax.metrics.checks import checked_features
from ddae_jax.metrics.frechet import (
    FeatureSums,
    Statistics,
    feature_sums,
    frechet_distance,
)
from ddae_jax.metrics.statistics_files import read_statistics
from tests.tools import golden_values


def samples(count=103, width=16, seed=0, offset=3.0):
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((width, width))
    return (generator.standard_normal((count, width)) @ mixing + offset).astype("f")


def statistics_of(features):
    return feature_sums(features).statistics()


def stream(features, batch_size) -> FeatureSums:
    batches = [
        features[start : start + batch_size]
        for start in range(0, len(features), batch_size)
    ]
    return functools.reduce(FeatureSums.add, batches[1:], feature_sums(batches[0]))


def assert_equal_fits(ours, theirs):
    assert ours.count == theirs.count
    np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours.covariance, theirs.covariance, rtol=1e-9, atol=1e-9)


def test_distance_is_the_published_one():
    _, arrays = golden_values.load("inception_fid")
    a, b = (statistics_of(arrays[f"frechet/{key}"]) for key in "ab")
    expected = float(arrays["frechet/distance_64"])
    assert abs(frechet_distance(a, b) - expected) < 1e-6
    assert abs(frechet_distance(b, a) - expected) < 1e-6
    assert abs(frechet_distance(a, a)) < 1e-6


def test_distance_follows_the_matrix_root_of_pytorch_fid():
    a, b = statistics_of(samples()), statistics_of(samples(seed=1, offset=2.0))
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(
        a.covariance + b.covariance - 2 * root
    )
    assert abs(frechet_distance(a, b) / expected - 1) < 1e-9


def test_distance_of_singular_covariances_is_exact():
    # Two samples span one direction; the rest of the covariance is zero.
    a = statistics_of(np.array([[1.0, 0, 0], [-1.0, 0, 0]]))
    b = statistics_of(np.array([[2.0, 1, 0], [-2.0, 1, 0]]))
    expected = 1 + (np.sqrt(8) - np.sqrt(2)) ** 2
    assert abs(frechet_distance(a, b) - expected) < 1e-6


@pytest.mark.parametrize("batch_size", [1, 2, 10, 64, 103])
def test_statistics_do_not_depend_on_the_batch_size(batch_size):
    features = samples()
    ours = stream(features, batch_size).statistics()
    assert ours.count == 103
    np.testing.assert_allclose(ours.mean, features.mean(0, dtype="d"), rtol=1e-9)
    np.testing.assert_allclose(
        ours.covariance, np.cov(features.astype("d"), rowvar=False), rtol=1e-9
    )


def test_statistics_do_not_depend_on_the_order_or_the_parts():
    features = samples()
    whole = statistics_of(features)
    shuffled = np.random.default_rng(5).permutation(features)
    assert_equal_fits(stream(shuffled, 7).statistics(), whole)
    parts = [stream(part, 9) for part in np.split(features, [1, 50])]
    merged = functools.reduce(FeatureSums.merge, parts)
    assert_equal_fits(merged.statistics(), whole)


def test_sums_keep_their_digits_far_from_zero():
    features = samples().astype(np.float64)
    near, far = statistics_of(features), statistics_of(features + 1e6)
    np.testing.assert_allclose(far.covariance, near.covariance, rtol=1e-6)


def test_features_that_cannot_be_measured_are_refused_in_one_line():
    features = samples()
    broken = features.copy()
    broken[4, 2] = np.nan
    for wrong, message in [
        (lambda: statistics_of(features[:1]), "1 samples: statistics need at least 2"),
        (lambda: statistics_of(features[:0]), "0 samples, at least 1 needed"),
        (lambda: statistics_of(broken), "sample 4 has a feature that is not finite"),
        (lambda: checked_features(features[0], "x"), "one row a sample is needed"),
        (lambda: stream(features, 9).add(features[:, :5]), "width 5, not 16"),
        (
            lambda: feature_sums(features).merge(feature_sums(features[:, :5])),
            "width 5, not 16",
        ),
        (
            lambda: frechet_distance(
                statistics_of(features), statistics_of(features[:, :5])
            ),
            "width 16 and 5 cannot be compared",
        ),
    ]:
        with pytest.raises(UserError, match=message) as raised:
            wrong()
        assert "\n" not in str(raised.value)


def test_published_files_are_read(tmp_path):
    fit = statistics_of(samples())
    entries = {"mu": fit.mean, "sigma": fit.covariance}
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    np.savez(tmp_path / "edm.npz", **entries)
    np.savez(
        tmp_path / "adm.npz", arr_0=images, mu_s=fit.mean, sigma_s=fit.mean, **entries
    )
    other = {"mu": fit.mean + 1, "sigma": fit.covariance}
    for protocol in (2, 4, 5):
        content = pickle.dumps({"fid": entries, "fd_dinov2": other}, protocol)
        (tmp_path / f"edm2_{protocol}.pkl").write_bytes(content)
    unknown_count = Statistics(None, fit.mean, fit.covariance)
    files = ["edm.npz", "adm.npz", "edm2_2.pkl", "edm2_4.pkl", "edm2_5.pkl"]
    for name in files:
        assert_equal_fits(read_statistics(tmp_path / name), unknown_count)
    dino = read_statistics(tmp_path / "edm2_5.pkl", "fd_dinov2")
    np.testing.assert_array_equal(dino.mean, fit.mean + 1)
    np.savez(tmp_path / "counted.npz", count=fit.count, **entries)
    assert_equal_fits(read_statistics(tmp_path / "counted.npz"), fit)


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_does_not_run(tmp_path):
    made = tmp_path / "made"
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps({"fid": Harmful(made)}))
    with pytest.raises(UserError, match=r"bad\.pkl: refused, .* posix\.mkdir"):
        read_statistics(path)
    hidden = np.array([Harmful(made)], dtype=object)
    np.savez(tmp_path / "bad.npz", mu=hidden, sigma=hidden)
    with pytest.raises(UserError, match="Object arrays cannot be loaded"):
        read_statistics(tmp_path / "bad.npz")
    assert not made.exists()


def test_files_that_are_no_statistics_are_refused_in_one_line(tmp_path):
    fit = statistics_of(samples())
    np.savez(tmp_path / "good.npz", mu=fit.mean, sigma=fit.covariance)
    whole = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "short.npz").write_bytes(whole[: len(whole) // 2])
    np.savez(tmp_path / "sigma.npz", sigma=fit.covariance)
    np.savez(tmp_path / "width.npz", mu=fit.mean[:3], sigma=fit.covariance)
    np.savez(tmp_path / "nan.npz", mu=fit.mean * np.nan, sigma=fit.covariance)
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1]))
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"kid": {}}))
    (tmp_path / "short.pkl").write_bytes(pickle.dumps({"fid": fit.mean})[:30])
    for name, message in {
        "short.npz": "no readable .npz file",
        "sigma.npz": "mu is missing",
        "width.npz": "differ",
        "nan.npz": "not finite",
        "list.pkl": "the pickle is no dict",
        "other.pkl": "has no metric 'fid'; it has: kid",
        "short.pkl": "corrupt or truncated",
    }.items():
        with pytest.raises(UserError, match=message) as raised:
            read_statistics(tmp_path / name)
        assert name in str(raised.value)
        assert "\n" not in str(raised.value)
    for name in ("none.npz", "none.pkl"):
        with pytest.raises(FileNotFoundError, match="there is no such file"):
            read_statistics(tmp_path / name)
