"""The checks on the values of a config that no type shows."""

import re
from collections.abc import Iterable

from ml_collections import ConfigDict

from ddae_jax.data.sources import SOURCES
from ddae_jax.errors import UserError
from ddae_jax.models.inception_input import MODES
from ddae_jax.settings import config as config_lib

_POSITIVE = (
    "train.batch_size",
    "train.learning_rate",
    "train.clip_norm",
    "train.adam_epsilon",
    "train.steps_per_dispatch",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_latest",
    "mesh.fsdp",
    "sample.count",
    "sample.batch_size",
    "probe.epochs",
    "probe.batch_size",
    "probe.learning_rate",
    "probe.seeds",
    "probe.knn_k",
    "probe.attentive_heads",
    "probe.attentive_queries",
    "probe.draws",
    "probe.label_fraction",
    "fid.count",
    "fid.batch_size",
    "fid.neighbours",
    "fid.kid_subsets",
    "fid.kid_subset_size",
    "fid.classifier_steps",
    "contrastive.batch_size",
    "contrastive.forward_batch_size",
    "dense.batch_size",
    "dense.count",
    "dense.clusters",
    "dense.queries",
    "dense.neighbours",
    "dense.gallery",
    "dense.epochs",
    "dense.learning_rate",
    "predict.batch_size",
    "finetune.epochs",
    "finetune.batch_size",
    "finetune.learning_rate",
    "finetune.layer_decay",
    "finetune.clip_norm",
    "finetune.label_fraction",
    "finetune.eval_every",
    "noisy_classifier.log_every",
    "noisy_classifier.checkpoint_every",
    "noisy_classifier.features.epochs",
    "noisy_classifier.features.batch_size",
    "noisy_classifier.features.learning_rate",
    "noisy_classifier.wide_resnet.epochs",
    "noisy_classifier.wide_resnet.batch_size",
    "noisy_classifier.wide_resnet.learning_rate",
)
_NOT_NEGATIVE = (
    "seed",
    "data.resident_bytes",
    "data.threads",
    "train.steps",
    "train.warmup_steps",
    "train.decay_from",
    "train.weight_decay",
    "train.sample_every",
    "train.keep_every",
    "sample.grid",
    "probe.crop",
    "probe.l2",
    "probe.knn_temperature",
    "probe.train_count",
    "probe.test_count",
    "fid.precision_count",
    "fid.inception_splits",
    "fid.classifier_seed",
    "contrastive.count",
    "dense.noise_level",
    "dense.train_count",
    "dense.classes",
    "predict.noise_level",
    "predict.train_count",
    "finetune.noise_level",
    "finetune.crop",
    "finetune.warmup_epochs",
    "finetune.weight_decay",
    "finetune.mixup",
    "finetune.cutmix",
    "finetune.train_count",
    "finetune.test_count",
    "noisy_classifier.crop",
    "noisy_classifier.train_count",
    "noisy_classifier.test_count",
    "noisy_classifier.wide_resnet.warmup_epochs",
    "noisy_classifier.wide_resnet.weight_decay",
)
_SHARES = (
    "network.dropout",
    "train.adam_b1",
    "train.adam_b2",
    "train.ema_decay",
    "train.augment_probability",
    "train.label_dropout",
    "probe.label_fraction",
    "finetune.layer_decay",
    "finetune.ema_decay",
    "finetune.label_smoothing",
    "finetune.label_fraction",
)
_BELOW_ONE = (
    "network.drop_path",
    "finetune.drop_path",
    "noisy_classifier.wide_resnet.momentum",
)
_CHOICES = {
    "dtype": ("float32", "bfloat16"),
    "fid.resize": MODES,
    "probe.classifier": ("adam", "logistic", "ridge", "knn", "attentive"),
    "probe.knn_metric": ("cosine", "euclidean"),
    "probe.concat": ("", "taps", "times", "both"),
    "dense.parts": ("maps", "retrieval", "segmentation"),
    "predict.head": ("", "probe", "finetune"),
    "noisy_classifier.kinds": ("features", "wide_resnet"),
    "track.measures": ("probe", "fid"),
}


def validate(config: ConfigDict, tasks: Iterable[str]) -> None:
    """Checks values that no type shows.

    Args:
      config: as `default` makes it.
      tasks: the names of the tasks that exist.

    Raises:
      UserError: names the field, what was given and what is possible.
    """
    tasks = tuple(tasks)
    flat = config_lib.flatten(config)
    if not config.tasks:
        raise UserError(f"config.tasks: empty; known: {', '.join(tasks)}")
    for task in config.tasks:
        if task not in tasks:
            raise UserError(config_lib.unknown("task", task, tasks))
    if config.data.name not in SOURCES and not config.data.name.startswith("tfds:"):
        known = (*SOURCES, "tfds:NAME")
        raise UserError(config_lib.unknown("config.data.name", config.data.name, known))
    checks = [
        (_POSITIVE, "positive", lambda value: value > 0),
        (_NOT_NEGATIVE, "0 or more", lambda value: value >= 0),
        (_SHARES, "in [0, 1]", lambda value: 0 <= value <= 1),
        (_BELOW_ONE, "in [0, 1)", lambda value: 0 <= value < 1),
        (
            ("probe.held_out", "dense.held_out"),
            "in (0, 1)",
            lambda value: 0 < value < 1,
        ),
    ]
    for fields, wanted, holds in checks:
        for field in fields:
            if flat.get(field) is not None and not holds(flat[field]):
                raise UserError(f"config.{field}: {flat[field]} is not {wanted}")
    for field, choices in _CHOICES.items():
        given = flat[field] if isinstance(flat[field], tuple) else (flat[field],)
        for value in given:
            if value not in choices:
                raise UserError(config_lib.unknown(f"config.{field}", value, choices))
    config_lib.process(config)
    samplers = config_lib.samplers_of(config.process.name)
    if config.sampler.name not in samplers:
        raise UserError(
            config_lib.unknown("config.sampler.name", config.sampler.name, samplers)
        )
    levels, attention = (
        len(flat.get(f"network.{field}", ()))
        for field in ("channel_multipliers", "attention")
    )
    if attention and attention != levels:
        raise UserError(
            f"config.network.attention: {attention} values for {levels} levels "
            "(config.network.channel_multipliers)"
        )
    interval = config.sample.guidance_interval
    if len(interval) != 2 or not interval[0] <= interval[1]:
        raise UserError(
            f"config.sample.guidance_interval: {interval!r} is not (lowest, highest) "
            "noise level"
        )
    _check_taps_and_times(config)
    _check_probe(config.probe)
    augment = getattr(config.network, "augment_channels", 0)
    if config.train.augment_probability > 0 and augment != 9:
        raise UserError(
            "config.train.augment_probability: the EDM augmentation needs a network "
            f"with augment_channels=9, this one has {augment}"
        )


def _check_taps_and_times(config: ConfigDict) -> None:
    """In every section that names taps and times."""
    known = config_lib.network(config).tap_paths()
    for name, section in config.items():
        if not isinstance(section, ConfigDict):
            continue
        taps = section.get("taps", ())
        taps += (section.tap,) if section.get("tap") else ()
        for tap in taps:
            if tap not in known:
                field = "taps" if "taps" in section else "tap"
                raise UserError(
                    config_lib.unknown(f"config.{name}.{field}", tap, known)
                )
        for field in ("times", "noise_levels", "test_times", "test_noise_levels"):
            for value in section.get(field, ()):
                if not isinstance(value, int | float) or not value >= 0:
                    raise UserError(
                        f"config.{name}.{field}: {value!r} is not 0 or more"
                    )
                if value == 0 and field.endswith("noise_levels"):
                    raise UserError(f"config.{name}.{field}: 0 is not positive")


def _check_probe(probe: ConfigDict) -> None:
    """What only the task probe has."""
    if not re.fullmatch(r"probe(_[A-Za-z0-9_.-]+)?", probe.output):
        raise UserError(
            f"config.probe.output: {probe.output!r} is not probe or probe_NAME, with "
            "letters, digits, _, . and - in NAME"
        )
    for field in ("ridge_l2", "knn_metric"):
        if not probe[field]:
            raise UserError(f"config.probe.{field}: empty")
    for value in probe.ridge_l2:
        if not isinstance(value, int | float) or not value > 0:
            raise UserError(f"config.probe.ridge_l2: {value!r} is not positive")
    if probe.draws > 1 and probe.classifier in ("adam", "attentive"):
        raise UserError(
            f"config.probe.draws: {probe.draws}, but {probe.classifier} draws noise "
            "anew for every batch; logistic, ridge and knn average over draws"
        )
    if probe.concat and probe.classifier == "attentive":
        raise UserError(
            f"config.probe.concat: {probe.concat!r} needs pooled taps, and attentive "
            "takes positions"
        )
