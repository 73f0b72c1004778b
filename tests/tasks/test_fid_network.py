"""How config.fid.features is trained where it is a classifier."""

import pytest

from ddae_jax.settings import schema
from ddae_jax.tasks.fid import network as fid_network
from ddae_jax.train import loop
from ddae_jax.train.folders import find_settings
from tests.tools.experiments import experiment_of


class Planned(Exception):
    """Instead of training."""


def test_the_config_says_how_many_steps_a_dispatch_has(tmp_path, monkeypatch):
    config = schema.default()
    config.data.name, config.fid.features = "digits", fid_network.CLASSIFIER
    identities = []
    for most in (1, 3):
        config.train.steps_per_dispatch = most

        def planned(folder, trainer, plan, most=most):
            assert plan.steps_per_dispatch == most
            identities.append(find_settings(folder))
            raise Planned

        monkeypatch.setattr(loop, "fit", planned)
        with pytest.raises(Planned):
            fid_network.feature_network(experiment_of(config, tmp_path))
    one, three = identities
    assert one == three  # an interrupted training goes on either way
