"""The classifier whose features stand in for Inception's."""

import numpy as np
import pytest

from ddae_jax.data import source as data_source
from ddae_jax.runtime import parallel
from ddae_jax.train import feature_classifier


@pytest.mark.slow
def test_steps_per_dispatch_change_it_by_rounding_alone(tmp_path, monkeypatch):
    # Small, as the tests' XLA is slow in loops.
    monkeypatch.setattr(feature_classifier, "_BATCH_SIZE", 8)
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1), np.uint8)
    labels = list(np.arange(20) % 2)
    source = data_source.from_arrays("noise", "train", images, labels, ("a", "b"))
    counts, dispatch = [], feature_classifier._Trainer.dispatch

    def counted(self, state, step, count):
        counts.append(count)
        return dispatch(self, state, step, count)

    monkeypatch.setattr(feature_classifier._Trainer, "dispatch", counted)
    mesh = parallel.make_mesh()
    # 40 steps with an event after every fourth: 3 and 1, again and again.
    one, three = (
        feature_classifier.fit(tmp_path / str(most), source, mesh, 40, 0, most)
        for most in (1, 3)
    )
    assert counts == [1] * 40 + [3, 1] * 10
    assert one.accuracy == pytest.approx(three.accuracy, abs=1 / 32)
    for name, tensor in one.tensors.items():
        np.testing.assert_allclose(tensor, three.tensors[name], atol=2e-4, err_msg=name)
