"""What Python's settings say is what the command line says."""

import sys

import pytest

import ddae_jax
from ddae_jax.errors import UserError
from ddae_jax.interface import requests


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "parts_of_mine.py").write_text("KNOWN = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "parts_of_mine"
    sys.modules.pop("parts_of_mine", None)


@pytest.mark.parametrize("as_written", [lambda name: (name,), lambda name: name])
def test_modules_of_ones_own_are_imported(own_module, tmp_path, as_written):
    settings = {"imports": as_written(own_module)}
    command = requests.command_of("digits:test", tmp_path / "run", ["probe"], settings)
    assert command.settings.imports == (own_module,)
    assert own_module in sys.modules


def test_lists_of_texts_and_of_numbers_are_taken(tmp_path):
    settings = {"probe.taps": ["out_1", "out_2"], "probe.times": [1, 3]}
    command = requests.command_of("digits:test", tmp_path / "run", ["probe"], settings)
    assert command.settings.probe.taps == ("out_1", "out_2")
    assert command.settings.probe.times == (1, 3)


def test_what_is_no_setting_is_named(tmp_path):
    with pytest.raises(UserError, match=r"probe\.times: .* is a set"):
        requests.command_of("digits:test", tmp_path, ["probe"], {"probe.times": {1, 3}})


def test_the_public_names_are_those_that_are_loaded_when_asked_for():
    assert set(ddae_jax.__all__) == {"__version__", *ddae_jax._PLACES}
    for name in ddae_jax.__all__:
        assert getattr(ddae_jax, name) is not None
