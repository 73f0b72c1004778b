"""Reads a checkpoint, published or exported, into a workdir that every task accepts."""

import dataclasses
import functools
import json
import math
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from ddae_jax.diffusion import PROCESSES
from ddae_jax.errors import UserError
from ddae_jax.experiment import DATA, Experiment, autoencoder, opening
from ddae_jax.runtime import checkpoint, parallel, processes
from ddae_jax.runtime.files import check_regular, read_json, write_json
from ddae_jax.settings import plain, saved, schema
from ddae_jax.settings.autoencoder import AutoencoderSettings
from ddae_jax.settings.fields import unknown
from ddae_jax.settings.import_weights import ImportSettings
from ddae_jax.settings.root import CHOSEN, Settings
from ddae_jax.train import state as train_state
from ddae_jax.weights import edm_pickle, families, folder, published, torch_files

_READERS = (".pkl", ".safetensors", ".pth", ".pt", ".ckpt", ".bin")
# What a user tells of published weights, and an export tells itself.
_TOLD = (
    *("family", "process", "image_size", "heads", "head_channels"),
    *("weight_normalization", "null_class", "time_scale"),
)


@dataclasses.dataclass(frozen=True)
class _Found:
    """What was read.

    Attributes:
      network: its configuration.
      params: its weights.
      image_shape: (height, width, channels).
      names: "network", "process" and "sampler" -> which one; empty for an autoencoder,
        which is no denoiser.
      sections: section of the config -> values that its fields get.
      data: what data.json says beside the shape and the number of classes.
      autoencoder: the folder of one, beside a denoiser of latents.
    """

    network: nn.Module
    params: dict
    image_shape: tuple[int, int, int]
    names: dict[str, str] = dataclasses.field(default_factory=dict)
    sections: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    autoencoder: pathlib.Path | None = None


def run(experiment: Experiment) -> Experiment:
    """Imports config.import_weights.path; the settings get its network and process.

    A file that the task export wrote, beside its config.json, tells all; of published
    weights, config.import_weights says what no tensor shows.

    Writes config.json, data.json and checkpoints/0, whose weights and EMA are both the
    imported ones and whose optimiser is fresh. An autoencoder of latents, which is no
    denoiser, is written to `workdir`/autoencoder instead, before or after the denoiser.

    Returns:
      the experiment under the settings that the file brought.

    Raises:
      UserError: the file cannot be read, its tensors do not fit, or a field that no
        tensor shows is needed; `workdir` already has checkpoints.
    """
    section = experiment.settings.import_weights
    path, workdir = pathlib.Path(section.path), experiment.workdir
    if not section.path or not path.exists():
        raise UserError(
            f"config.import_weights.path: there is no file {section.path!r}"
        )
    check_regular(path)
    for field, known in (
        ("family", families.FAMILIES),
        ("process", PROCESSES),
        ("weights", torch_files.WHICH),
    ):
        given = getattr(section, field)
        if given and given not in known:
            raise UserError(unknown(f"config.import_weights.{field}", given, known))
    try:
        beside = _description(path)
        if beside:
            found = _exported(path, section, beside)
        else:
            found = _published(path, section)
    except UserError as error:
        raise UserError(f"config.import_weights ({path.name}): {error}") from error
    if not found.names:
        _write_autoencoder(workdir / autoencoder.NAME, found.network, found.params)
        return experiment
    if processes.on_first((workdir / "checkpoints").is_dir):
        raise UserError(f"--workdir: {workdir} has checkpoints already; name a new one")
    settings = _configured(experiment.settings, found)
    experiment = dataclasses.replace(experiment, settings=settings)
    classes = found.network.num_classes
    _write_checkpoint(experiment, found)
    if found.autoencoder is not None:
        copy = functools.partial(shutil.copytree, dirs_exist_ok=True)
        target = workdir / autoencoder.NAME
        processes.on_first(lambda: str(copy(found.autoencoder, target)))
    experiment.write_json(
        DATA,
        {
            "name": path.name,
            "train_images": None,
            "image_shape": list(found.image_shape),
            "class_count": classes,
            "class_names": [str(label) for label in range(classes)],
            **found.data,
        },
    )
    experiment.write_json(saved.FILE, plain.of_settings(settings))
    names = found.names
    logging.info(
        "%s: %s under %s, in %s", path.name, names["network"], names["process"], workdir
    )
    return experiment


def _description(path: pathlib.Path) -> dict:
    """The config.json of an export beside `path`; empty where there is none."""
    if path.name != folder.FILE:
        return {}
    content = read_json(path.parent / saved.FILE) or {}
    return content if {"network", autoencoder.NAME} & content.keys() else {}


def _exported(path: pathlib.Path, section: ImportSettings, beside: dict) -> _Found:
    """What the task export, or import, left in a folder."""
    for field in _TOLD:
        if getattr(section, field) not in (None, ""):
            raise UserError(
                f"{field} is given, but config.json beside the file tells it"
            )
    if "network" not in beside:
        try:
            latents = 8, 8, int(beside[autoencoder.NAME]["latent_channels"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"config.json is not an autoencoder's: {error}") from error
        read, params = autoencoder.load(
            AutoencoderSettings(), "float32", path.parent, latents
        )
        return _Found(read.autoencoder, params, read.image_shape)
    experiment, loaded = opening.open_folder(path.parent)
    chosen = {name: plain.of_chosen(experiment.settings, name) for name in CHOSEN}
    data = json.loads((path.parent / DATA).read_text())
    data.pop("step", None)  # counted anew
    return _Found(
        loaded.denoiser.network,
        loaded.params,
        loaded.image_shape,
        {name: values.pop("name") for name, values in chosen.items()},
        {**chosen, autoencoder.NAME: plain.of_section(experiment.settings.autoencoder)},
        data,
        None if loaded.latents is None else path.parent / autoencoder.NAME,
    )


def _published(path: pathlib.Path, section: ImportSettings) -> _Found:
    """What the tensors of a published checkpoint, and the config, tell."""
    state, facts = _read(path, section.weights)
    name = section.family or families.detect(state)
    network = _network(name, state, section, facts)
    process = _process_name(name, network, section.process)
    image_shape = _image_shape(name, state, network, section.image_size)
    params = _params(name, state, network, image_shape)
    if process is None:
        return _Found(network, params, image_shape)
    fields = plain.of_section(network)
    sections = {"network": fields, "process": {}, "sampler": {}}
    if name == "songunet" and process == "edm":
        sections["sampler"]["clip"] = False  # NVlabs' sampler does not
    if "sigma_data" in facts and process == "edm":
        sections["process"]["sigma_data"] = facts["sigma_data"]
    names = {"process": process, "network": name}
    return _Found(network, params, image_shape, names, sections)


def _read(path: pathlib.Path, which: str) -> tuple[Mapping[str, np.ndarray], dict]:
    """The tensors, and what else the file tells: sigma_data, time_scale."""
    if path.suffix not in _READERS:
        known = ", ".join(_READERS)
        raise UserError(f"files of {path.suffix or 'no suffix'} are not known: {known}")
    if path.suffix == ".pkl":
        pickled = edm_pickle.read(path)
        return pickled.state, {"sigma_data": pickled.sigma_data}
    if path.suffix == ".safetensors":
        state = folder.read_tensors(path)
        if folder.has_own_names(state):
            raise UserError(
                "its tensors have our own names: the config.json that the export wrote "
                f"must lie beside, and the file be named {folder.FILE}"
            )
        return torch_files.state_dict(state, which), {}
    content = torch_files.read(path)
    of_ddae = isinstance(content, Mapping) and "MODEL" in content
    return torch_files.state_dict(content, which), {"of_ddae": of_ddae}


def _network(
    name: str, state: Mapping[str, np.ndarray], section: ImportSettings, facts: dict
) -> nn.Module:
    keys = ("heads", "head_channels", "weight_normalization", "null_class")
    network = families.network_of(
        name, state, {key: getattr(section, key) for key in keys}
    )
    if name == "uvit":
        # DDAE's own training script feeds t/T, U-ViT's a time up to 999 or 1000.
        usual = 1000.0 if network.image_channels == 4 else 999.0
        scale = section.time_scale or (1.0 if facts.get("of_ddae") else usual)
        return network.clone(time_scale=scale)
    if section.time_scale is not None:
        raise UserError(f"time_scale is given, but {name} networks have no such field")
    return network


def _process_name(name: str, network: nn.Module, given: str) -> str | None:
    if name == "vae":
        return None
    process = given or families.FAMILIES[name].process
    if process is None:
        raise UserError(
            f"no tensor of family {name} shows the process: give process, ddpm or edm"
        )
    if network.learned_variance != (process == "dit"):
        raise UserError(
            f"process is {process}, but dit, and no other, is for networks that also "
            "predict the variance (twice as many output channels as inputs)"
        )
    return process


def _image_shape(
    name: str, state: Mapping[str, np.ndarray], network: nn.Module, size: int | None
) -> tuple[int, int, int]:
    if name == "vae":
        side = 2 ** len(network.widths)
        return side, side, network.image_channels
    shown = families.FAMILIES[name].image_shape
    if shown is None:
        if size is None or size < 1:
            raise UserError(
                f"no tensor of family {name} shows the size of the images: give "
                "image_size, in pixels"
            )
        return size, size, network.image_channels
    shape = shown(state)
    if size not in (None, shape[0]):
        raise UserError(f"image_size is {size}, but the tensors are for {shape[0]}")
    return shape


def _params(
    name: str,
    state: Mapping[str, np.ndarray],
    network: nn.Module,
    image_shape: tuple[int, int, int],
) -> dict:
    def init(key):
        images = jnp.zeros((1, *image_shape))
        inputs = (images,) if name == "vae" else (images, jnp.ones(1))
        return network.init(key, *inputs)["params"]

    try:
        shapes = jax.eval_shape(init, jax.random.key(0))
    except (TypeError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"the network is not for images of {image_shape}: {reason}"
        ) from error
    params = published.to_parameters(network, state, shapes)
    return jax.tree.map(jnp.array, params)  # copies: the file can be closed


def _configured(settings: Settings, found: _Found) -> Settings:
    """The settings with what was found."""
    network = found.network
    train = {"class_conditional": network.num_classes > 0}
    if network.null_label is None:
        train["label_dropout"] = 0.0
    names = {
        section: name
        for section, name in found.names.items()
        if section == "network" or name != settings.names[section]
    }
    values = {**found.sections, "train": train, "probe": {"taps": ()}}
    settings = schema.changed(settings, names, values)
    try:
        for time in settings.probe.times:
            settings.process.official_time(time)
    except UserError:  # times of another process
        settings = schema.changed(settings, {}, {"probe": {"times": ()}})
    return settings


def _write_checkpoint(experiment: Experiment, found: _Found) -> None:
    """Writes checkpoints/0."""
    recipe = experiment.train_step(found.network.num_classes, objectives=())
    init = train_state.create(recipe.denoiser, recipe.optimizer, found.image_shape)
    shapes = jax.eval_shape(init, jax.random.key(0))
    # Adam begins at zeros; one array for all of a shape, or they would be most of the
    # memory that this takes.
    whole = parallel.replicated(experiment.mesh)
    zeros = functools.cache(functools.partial(jnp.zeros, device=whole))
    fresh = jax.tree.map(lambda leaf: zeros(leaf.shape, leaf.dtype), shapes)
    # Training keeps weights projected from before its first step on; the EMA, which is
    # what was read, stays so bit by bit.
    trained = parallel.on_host(found.network.project(found.params))
    state = fresh.replace(
        params=parallel.place_state(experiment.mesh, trained),
        ema=parallel.place_state(experiment.mesh, parallel.on_host(found.params)),
    )
    keep = checkpoint.Keep(best=False)
    with checkpoint.manager(experiment.workdir, keep) as checkpoints:
        # No loss was measured: any that training measures is better.
        checkpoint.save(checkpoints, 0, state, math.inf)
        checkpoints.wait_until_finished()


def _write_autoencoder(target: pathlib.Path, network: nn.Module, params: dict) -> None:
    def write():
        target.mkdir(parents=True, exist_ok=True)
        folder.write_parameters(target, params)
        description = {autoencoder.NAME: families.fields(network, without=("dtype",))}
        write_json(target / saved.FILE, description)

    processes.on_first(write)
    logging.info("the autoencoder is in %s", target)
