"""The section network.self_condition: on the command line, checked, saved, shrunk."""

import json

import pytest

from ddae_jax import main
from ddae_jax.errors import UserError
from ddae_jax.models import NETWORKS
from ddae_jax.models.self_conditioning import SelfConditioning
from ddae_jax.settings import command_line, plain, reference, saved, schema
from tests.conftest import ROOT

WITH = [name for name, cls in NETWORKS.items() if cls().self_condition_taps()]


def config_of(network, **fields):
    config = schema.default(network)
    for name, value in fields.items():
        config.network.self_condition[name] = value
    return config


def test_five_networks_have_it():
    assert WITH == ["unet", "songunet", "uvit", "dit", "lightningdit"]
    assert "self_condition" not in schema.default("edm2").network


@pytest.mark.parametrize("network", WITH)
def test_it_is_built_saved_and_read_again(network, tmp_path):
    config = config_of(network, tap="default", time_scaling=False, stop_gradient=True)
    settings = schema.build(config)
    asked = SelfConditioning("default", False, True)
    assert settings.network.self_condition == asked
    assert schema.network(config).self_condition == asked
    saved.write(settings, tmp_path)
    again = saved.read(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert schema.build(again) == settings
    values = plain.of_settings(settings)["network"]["self_condition"]
    assert values["tap"] == "default" and values["summary"] == "mean"
    # What was saved before there was such a section is without it.
    old = json.loads((tmp_path / saved.FILE).read_text())
    del old["network"]["self_condition"]
    (tmp_path / saved.FILE).write_text(json.dumps(old))
    plain_one = schema.network(schema.default(network))
    assert schema.build(saved.read(tmp_path)).network == plain_one


@pytest.mark.parametrize("network", WITH)
def test_every_source_has_one_in_the_test_variant(network):
    whole = NETWORKS[network]()
    for tap in (*whole.self_condition_taps(), "default", "auto", ""):
        config = config_of(network, tap=tap)
        schema.shrink(config)
        tiny = schema.build(config).network
        if tap not in ("auto", ""):
            assert tiny.self_condition_source() in tiny.self_condition_taps()
        else:
            assert tiny.self_condition.tap == tap


@pytest.mark.parametrize(
    ("network", "fields", "said"),
    [
        (
            "unet",
            {"tap": "ou_3"},
            "config.network.self_condition.tap: unknown 'ou_3'. Did you mean 'out_3'?",
        ),
        ("unet", {"tap": "out_12"}, "self_condition.tap: nothing after out_12 takes"),
        (
            "songunet",
            {"tap": "default", "summary": "cls"},
            "config.network.self_condition.summary: cls is a token of a transformer",
        ),
        (
            "dit",
            {"summary": "max"},
            "config.network.self_condition.summary: unknown 'max'. Did you mean",
        ),
    ],
)
def test_an_error_names_the_field(network, fields, said):
    with pytest.raises(UserError) as raised:
        schema.build(config_of(network, **fields))
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_it_is_set_by_flags_and_changed_by_code(tmp_path):
    given = [
        "main",
        f"--config={ROOT}/configs/digits.py",
        f"--workdir={tmp_path}",
        "--config.network.self_condition.tap=auto",
        "--config.network.self_condition.stop_gradient=True",
    ]
    settings = command_line.parse(given, main.define_flags).settings
    assert settings.network.self_condition == SelfConditioning("auto", True, True)
    values = {"network": {"self_condition": {"tap": "out_1"}}}
    changed = schema.changed(settings, {}, values)
    assert changed.network.self_condition == SelfConditioning("out_1", True, True)
    assert changed.data == settings.data


def test_help_lists_it():
    text = reference.help_text()
    assert "--config.network.self_condition.tap=''" in text
