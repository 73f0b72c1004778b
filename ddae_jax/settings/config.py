"""Every field of a config, with its default.

A config is an ml_collections.ConfigDict. It is read by `main` and `tasks` alone; the
floors below take plain arguments.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict, config_dict

from ddae_jax.diffusion import PROCESSES, SAMPLERS
from ddae_jax.errors import UserError
from ddae_jax.models import NETWORKS
from ddae_jax.settings import evaluation as config_evaluation
from ddae_jax.settings import weights_sections as config_weights

# The computation's type is one field for the whole config; the last two are flax's own.
_NOT_CONFIGURED = {"dtype", "name", "parent"}


def default(
    network: str = "unet", process: str = "ddpm", sampler: str = "ddim"
) -> ConfigDict:
    """Returns a config with every field at its default, locked.

    The sections `network`, `process` and `sampler` hold the fields of what they name.
    """
    config = ConfigDict()
    config.name = "run"  # names the default workdir: runs/NAME-VARIANT
    config.variant = ""
    config.tasks = ("pretrain", "sample", "probe", "report")  # run in this order
    config.seed = 0
    config.dtype = "float32"  # of the computation: float32 or bfloat16

    config.data = data = ConfigDict()
    data.name = "digits"  # a key of data.sources.SOURCES, or tfds:NAME
    data.folder = ""  # where the files are; empty: the source's own default
    data.image_size = config_dict.placeholder(int)  # pad or resize; None: as it is
    data.channels = config_dict.placeholder(int)  # convert to 1 or 3; None: as it is
    data.resident_bytes = 1 << 30  # sets up to this size live on the accelerator
    data.threads = 8  # that decode larger sets

    select(config, "network", network)
    select(config, "process", process)
    select(config, "sampler", sampler)

    config.train = train = ConfigDict()
    train.batch_size = 128  # over all devices
    train.steps = 1000  # optimiser steps
    train.learning_rate = 4e-4  # Adam's, for the whole batch
    train.warmup_steps = 100  # linear from 0
    train.decay_from = 0  # then constant to this step, then 1/sqrt(step); 0: constant
    train.adam_b1 = 0.9
    train.adam_b2 = 0.999
    train.adam_epsilon = 1e-8
    train.weight_decay = 0.0  # decoupled, AdamW's
    train.clip_norm = 1.0  # of the global gradient; inf: no limit
    train.ema_decay = 0.9999  # the cap, where ema_warmup is on
    train.ema_warmup = True  # 1 - (1 + step)^(-2/3) up to the cap
    train.flip = True  # mirror images left to right
    train.augment_probability = 0.0  # of each EDM augmentation; needs augment_channels
    train.class_conditional = False
    train.label_dropout = 0.1  # share of labels replaced by "no class"
    train.steps_per_dispatch = 1  # optimiser steps in one call of the device
    train.log_every = 50
    train.sample_every = 0  # steps between sample grids in the log; 0: never
    train.checkpoint_every = 1000
    train.keep_latest = 2
    train.keep_every = 0  # also keep each checkpoint of a multiple of this; 0: none
    train.keep_best = True  # also keep the one of the lowest training loss

    config.mesh = mesh = ConfigDict()
    mesh.fsdp = 1  # devices that share the parameters; the others repeat them

    config.checkpoint = ConfigDict()
    config.checkpoint.step = -1  # which step the later tasks read; -1: the latest

    config.sample = sample = ConfigDict()
    sample.count = 64
    sample.batch_size = 64
    sample.grid = 64  # images in the grid picture
    sample.png_folder = False  # also write every image as a file
    sample.label = -1  # class of the samples, where trained with classes; -1: in turn
    sample.guidance_scale = 1.0  # classifier-free; 1: none
    sample.guidance_interval = (0.0, float("inf"))  # noise levels where it acts
    sample.guidance_channels = config_dict.placeholder(int)  # the first; None: all

    config.probe = probe = ConfigDict()
    probe.taps = ()  # empty: all
    probe.times = ()  # in its published convention; empty: the process's own
    probe.noise_levels = ()  # sigma/alpha; instead of times where not empty
    # adam: the published protocol; logistic: converged; ridge, knn; attentive: over
    # positions instead of their mean
    probe.classifier = "adam"
    probe.output = "probe"  # names the files: probe or probe_NAME
    probe.epochs = 15
    probe.batch_size = 512
    probe.learning_rate = 4e-3
    probe.flip = True
    probe.crop = 4  # random crop: padding in pixels; 0: none
    probe.l2 = 1e-3  # of the logistic classifier, on standardised features
    probe.ridge_l2 = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)  # chosen on held-out images
    probe.knn_k = 20
    probe.knn_metric = ("cosine", "euclidean")  # likewise
    probe.knn_temperature = 0.07  # cosine votes: exp(similarity / it); 0: one each
    probe.attentive_heads = 8  # of the attention; they divide the tap's channels
    probe.attentive_queries = 1
    probe.concat = ""  # one cell of all taps, times or both
    probe.draws = 1  # of the noise; features of logistic, ridge, knn are their mean
    probe.label_fraction = 1.0  # share of each class's images, one at least
    probe.cache = True  # keep features of logistic, ridge, knn on disk
    probe.cache_folder = ""  # empty: WORKDIR/features
    probe.held_out = 0.1  # share of the training set that chooses tap and time
    probe.seeds = 1  # repeat with other noise and held-out images; report the mean
    probe.train_count = 0  # use only the first images of the training set; 0: all
    probe.test_count = 0
    probe.baselines = True  # also probe raw pixels and the network untrained

    for name, section in config_evaluation.SECTIONS.items():
        config[name] = section()
    config["import"] = config_weights.import_section()
    config.export = config_weights.export_section()
    config.autoencoder = config_weights.autoencoder_section()
    config.lock()
    return config


def select(config: ConfigDict, section: str, name: str) -> None:
    """Puts the defaults of what `name` names into `section`.

    Args:
      section: "network", "process" or "sampler". A new process also brings its first
        sampler, unless it has the one that is there.

    Raises:
      UserError: there is no such name.
    """
    samplers = SAMPLERS[config.process.name] if "process" in config else {}
    known, options = {
        "network": (NETWORKS, _module_fields),
        "process": (PROCESSES, _module_fields),
        "sampler": (samplers, _module_fields),
    }[section]
    if name not in known:
        raise UserError(unknown(f"config.{section}.name", name, known))
    with config.unlocked():
        config[section] = ConfigDict({"name": name} | options(known[name]))
    sampler = config.get("sampler")
    if section == "process" and sampler and sampler.name not in samplers_of(name):
        select(config, "sampler", samplers_of(name)[0])


def samplers_of(process: str) -> tuple[str, ...]:
    """Names of the samplers of a process."""
    return tuple(SAMPLERS[process])


def _module_fields(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {
        field.name: _optional(field.default, hints[field.name])
        for field in dataclasses.fields(cls)
        if field.init and field.name not in _NOT_CONFIGURED
    }


def _optional(value: Any, hint: Any) -> Any:
    if value is None and isinstance(hint, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return config_dict.placeholder(kinds[0])
    return value


def unknown(field: str, given: Any, known: Iterable[str]) -> str:
    """One line that says what is known, and what was probably meant."""
    known = sorted(known)
    near = difflib.get_close_matches(str(given), known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{field}: unknown {given!r}.{hint} Known: {', '.join(known)}"


def check_variant(name: str, given: str, known: Iterable[str]) -> None:
    """Raises a UserError where config `name` has no variant `given`; "" always is."""
    if given and given not in known:
        raise UserError(unknown(f"variant of config {name}", given, known))


def shrink(config: ConfigDict) -> None:
    """Turns a config into its `:test` variant, which takes seconds.

    Every task takes the same path through the code, on images of 8x8. The network keeps
    its resampling and attention, on two levels as narrow as its normalisation allows.
    """
    network, train, probe = config.network, config.train, config.probe
    config.data.image_size = 8
    network.channels, network.channel_multipliers = 32, (1, 1)
    network.attention, network.blocks = (False, True), 1
    network.dropout = 0.1  # as all others: what is compiled for one serves the next
    config.sampler.steps = 4
    train.batch_size, train.steps, train.warmup_steps = 8, 4, 2
    train.log_every = train.checkpoint_every = 2
    train.keep_every, train.sample_every = min(train.keep_every, 2), 4
    config.sample.count = config.sample.batch_size = config.sample.grid = 8
    probe.times = (probe.times or process(config).probe_times)[:2]
    probe.noise_levels = probe.noise_levels[:2]
    probe.epochs, probe.batch_size, probe.seeds = 1, 16, min(probe.seeds, 2)
    probe.train_count, probe.test_count, probe.held_out = 64, 32, 0.5
    config_evaluation.shrink(config)


def copy_with(config: ConfigDict, changes: dict[str, Any]) -> ConfigDict:
    """Returns a copy in which the fields "section.field" have other values."""
    copy = config.copy_and_resolve_references()
    copy.update_from_flattened_dict(changes)
    copy.lock()
    return copy


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Maps "section.field" to its value."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def network(config: ConfigDict):
    """Builds the network that the config describes.

    Raises:
      UserError: its fields do not go together.
    """
    fields = dict(config.network)
    cls = NETWORKS[fields.pop("name")]
    try:
        return cls(**fields, dtype=config.dtype)
    except (TypeError, ValueError) as error:
        raise UserError(f"config.network: {error}") from error


def process(config: ConfigDict):
    """Builds the process that the config describes."""
    fields = dict(config.process)
    cls = PROCESSES[fields.pop("name")]
    try:
        return cls(**fields)
    except (TypeError, ValueError) as error:
        raise UserError(f"config.process: {error}") from error
