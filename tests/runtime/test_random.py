"""Random streams: all different, none the root, the ones in use and no others."""

import re

import jax
import numpy as np
import pytest

from ddae_jax.runtime import random
from tests.conftest import ROOT


def test_no_two_streams_coincide_and_none_is_the_root():
    keys = [random.stream(3, name) for name in random.STREAMS]
    data = {tuple(np.asarray(jax.random.key_data(key))) for key in keys}
    assert len(data) == len(random.STREAMS)
    assert tuple(np.asarray(jax.random.key_data(jax.random.key(3)))) not in data
    # Beyond what a split or an example's index of another key could reach.
    assert min(map(random.name_hash, random.STREAMS)) > 10**6


def test_a_stream_depends_on_seed_and_name_alone():
    one, other = random.stream(0, "train/init"), random.stream(1, "train/init")
    assert (jax.random.key_data(one) != jax.random.key_data(other)).any()
    again = random.stream(0, "train/init")
    np.testing.assert_array_equal(*map(jax.random.key_data, (one, again)))
    assert random.name_hash("train/init") == 1982674286


def test_the_registry_has_the_streams_in_use_and_no_others():
    used = set()
    for path in (ROOT / "ddae_jax").rglob("*.py"):
        text = path.read_text()
        used |= set(re.findall(r'stream\((?:[\w.]+, )?"([a-z_/]+)"\)', text))
        if path.name != "random.py":
            assert not re.search(r"fold_in\([^)]*, *\d+\)", text), path
    # Named in the text, and opened in a loop.
    used |= {"dense/held_out_noise", "dense/test_noise"}
    used |= {"contrastive/first", "contrastive/second"}
    assert used == set(random.STREAMS)


def test_names_must_be_known_and_new():
    with pytest.raises(KeyError, match="no random stream 'probe/nosie'"):
        random.stream(0, "probe/nosie")
    with pytest.raises(ValueError, match="exists"):
        random.register_stream("train/init", "again")
