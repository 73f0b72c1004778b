"""What pre-training with additions cannot have, and the configs that name them."""

import pytest

from ddae_jax import main
from ddae_jax.errors import UserError
from ddae_jax.settings import recipes, schema
from tests.tools import additions, configs

ON = "--config.objectives.{}.on=True"
CONTRASTIVE = ON.format("contrastive")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return additions.write_images(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            (CONTRASTIVE, "--config.objectives.contrastive.tap=layer-9"),
            "config.objectives.contrastive.tap: unknown 'layer-9'",
        ),
        (
            ("--config.network.self_condition.tap=layer-9",),
            "config.network.self_condition.tap: unknown 'layer-9'",
        ),
        (
            (CONTRASTIVE, "--config.objectives.contrastive.views=edm"),
            "config.objectives.contrastive.views: edm needs",
        ),
        (
            (CONTRASTIVE, "--config.train.accumulate=2"),
            "config.objectives.contrastive.on: it compares the images of a whole batch",
        ),
        (
            (ON.format("dispersive"), "--config.train.accumulate=2"),
            "config.objectives.dispersive.on: it compares the images of a whole batch",
        ),
        (
            (ON.format("dispersive"), "--config.train.batch_size=1"),
            "config.objectives.dispersive.on: it compares images, and config.train.b",
        ),
        (
            (
                ON.format("self_alignment"),
                "--config.objectives.self_alignment.tap=layer-1",
                "--config.objectives.self_alignment.teacher_tap=layer-0",
            ),
            "config.objectives.self_alignment.teacher_tap: layer-0 does not come after",
        ),
        (
            (
                CONTRASTIVE,
                "--config.network.name=uvit",
                "--config.network.num_classes=10",
                "--config.network.null_class=False",
                "--config.network.patch_size=2",
                "--config.network.depth=2",
                "--config.train.class_conditional=True",
                "--config.train.label_dropout=0",
            ),
            "config.objectives.contrastive.on: views are compared without classes",
        ),
    ],
)
def test_what_cannot_be_had_is_one_line(images, tmp_path, flags, expected):
    assert expected in additions.refusal(tmp_path / "run", images, *flags)


@pytest.mark.parametrize(
    ("config", "flags", "expected"),
    [
        (
            "fashion_mnist_16.py:unet+test",
            ("--config.network.self_condition.tap=out_4",),
            "config.network.self_condition.tap: nothing after out_4 takes",
        ),
        (
            "fashion_mnist_16.py:unet+sc+test",
            ("--config.network.self_condition.summary=cls",),
            "config.network.self_condition.summary: cls is a token of a transformer",
        ),
        (
            "cifar10.py:edm2_c+test",
            ("--config.network.self_condition.tap=default",),
            "--config.network.self_condition.tap: field: unknown",
        ),
    ],
)
def test_networks_without_such_a_source_say_so(tmp_path, config, flags, expected):
    command = (f"--config=configs/{config}", f"--workdir={tmp_path / 'run'}", *flags)
    with pytest.raises(UserError) as error:
        main.run(["main", "--task=pretrain", *command])
    assert str(error.value).startswith(expected) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("base", ["unet", "dit"])
@pytest.mark.parametrize("test", ["", "+test"])
def test_every_variant_of_the_ablation_is_built(base, test):
    plain = schema.build(configs.load(f"fashion_mnist_16:{base}{test}"))
    for name in recipes.ADDITIONS:
        config = configs.load(f"fashion_mnist_16:{base}+{name}{test}")
        assert config.variant == f"{base}+{name}{test}"
        assert schema.build(config) != plain
    config = configs.load(f"fashion_mnist_16:{base}+sc+csd{test}")
    assert config.network.self_condition.tap == "default"
    assert schema.build(config).section("objectives").contrastive.on


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("unet+scc", "variant of config fashion_mnist_16: +: unknown 'scc'."),
        ("unet+sc+sc", "variant of config fashion_mnist_16: unet+sc+sc adds something"),
        ("unett", "variant of config fashion_mnist_16: unknown 'unett'."),
        ("unet+", "variant of config fashion_mnist_16: +: unknown ''."),
    ],
)
def test_an_unknown_variant_is_one_line(variant, expected):
    with pytest.raises(UserError) as error:
        configs.load(f"fashion_mnist_16:{variant}")
    assert str(error.value).startswith(expected) and "\n" not in str(error.value)
