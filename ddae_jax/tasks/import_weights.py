"""Reads a published checkpoint into a workdir that every other task accepts."""

import functools
import math
import pathlib
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from ddae_jax.diffusion import PROCESSES
from ddae_jax.errors import UserError
from ddae_jax.experiment import autoencoder, common
from ddae_jax.runtime import checkpoint
from ddae_jax.settings import schema
from ddae_jax.settings.fields import unknown
from ddae_jax.train import state as train_state
from ddae_jax.weights import edm_pickle, families, folder, torch_files, torch_layout

_READERS = (".pkl", ".safetensors", ".pth", ".pt", ".ckpt", ".bin")


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Imports config.import_weights.path; the config gets its network and process.

    Writes config.json, data.json and checkpoints/0, whose weights and EMA are both the
    imported ones and whose optimiser is fresh. An autoencoder of latents, which is no
    denoiser, is written to `workdir`/autoencoder instead, before or after the denoiser.

    Raises:
      UserError: the file cannot be read, its tensors do not fit, or a field that no
        tensor shows is needed; `workdir` already has checkpoints.
    """
    section = config.import_weights
    path, workdir = pathlib.Path(section.path), pathlib.Path(workdir)
    if not section.path or not path.is_file():
        raise UserError(
            f"config.import_weights.path: there is no file {section.path!r}"
        )
    for field, known in (
        ("family", families.FAMILIES),
        ("process", PROCESSES),
        ("weights", torch_files.WHICH),
    ):
        if section[field] and section[field] not in known:
            raise UserError(
                unknown(f"config.import_weights.{field}", section[field], known)
            )
    try:
        state, facts = _read(path, section.weights)
        name = section.family or families.detect(state)
        network = _network(name, state, section, facts)
        process = _process_name(name, network, section.process)
        image_shape = _image_shape(name, state, network, section.image_size)
        params = _params(name, state, network, image_shape)
    except UserError as error:
        raise UserError(f"config.import_weights ({path.name}): {error}") from error
    del state
    if process is None:
        _write_autoencoder(workdir / autoencoder.NAME, network, params)
        return
    if (workdir / "checkpoints").is_dir():
        raise UserError(f"--workdir: {workdir} has checkpoints already; name a new one")
    _configure(config, name, network, process, facts)
    classes = network.num_classes
    _write_checkpoint(config, workdir, params, image_shape, classes)
    common.write_json(
        workdir,
        "data.json",
        {
            "name": path.name,
            "train_images": None,
            "image_shape": list(image_shape),
            "class_count": classes,
            "class_names": [str(label) for label in range(classes)],
        },
    )
    common.write_json(workdir, "config.json", config.to_dict())
    logging.info("%s: %s under %s, in %s", path.name, name, process, workdir)


def _read(path: pathlib.Path, which: str) -> tuple[Mapping[str, np.ndarray], dict]:
    """The tensors, and what else the file tells: sigma_data, time_scale."""
    if path.suffix not in _READERS:
        known = ", ".join(_READERS)
        raise UserError(f"files of {path.suffix or 'no suffix'} are not known: {known}")
    if path.suffix == ".pkl":
        pickled = edm_pickle.read(path)
        return pickled.state, {"sigma_data": pickled.sigma_data}
    if path.suffix == ".safetensors":
        return folder.read_tensors(path), {}
    content = torch_files.read(path)
    of_ddae = isinstance(content, Mapping) and "MODEL" in content
    return torch_files.state_dict(content, which), {"of_ddae": of_ddae}


def _network(
    name: str, state: Mapping[str, np.ndarray], section: ConfigDict, facts: dict
) -> nn.Module:
    keys = ("heads", "head_channels", "weight_normalization", "null_class")
    network = families.network_of(name, state, {key: section[key] for key in keys})
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
    family = families.FAMILIES[name]

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
    state = family.clean(state, network)
    params = torch_layout.from_torch(state, family.names(network), shapes)
    return jax.tree.map(jnp.array, params)  # copies: the file can be closed


def _configure(
    config: ConfigDict, name: str, network: nn.Module, process: str, facts: dict
) -> None:
    if config.process.name != process:
        schema.select(config, "process", process)
    schema.select(config, "network", name)
    with config.unlocked():
        for field, value in families.fields(network, without=("dtype",)).items():
            if value is not None:
                config.network[field] = value
        if name == "songunet" and process == "edm":
            config.sampler.clip = False  # NVlabs' sampler does not
        if "sigma_data" in facts and process == "edm":
            config.process.sigma_data = facts["sigma_data"]
        config.train.class_conditional = network.num_classes > 0
        if network.null_label is None:
            config.train.label_dropout = 0.0
        config.probe.taps = ()
        try:
            for time in config.probe.times:
                schema.process(config).official_time(time)
        except UserError:
            config.probe.times = ()


def _write_checkpoint(
    config: ConfigDict,
    workdir: pathlib.Path,
    params: dict,
    image_shape: tuple[int, int, int],
    class_count: int,
) -> None:
    """Writes checkpoints/0."""
    recipe = common.train_step(config, class_count)
    init = train_state.create(recipe.denoiser, recipe.optimizer, image_shape)
    shapes = jax.eval_shape(init, jax.random.key(0))
    # Adam begins at zeros; one array for all of a shape, or they would be most of the
    # memory that this takes.
    zeros = functools.cache(jnp.zeros)
    fresh = jax.tree.map(lambda leaf: zeros(leaf.shape, leaf.dtype), shapes)
    state = fresh.replace(params=params, ema=params)
    with checkpoint.manager(workdir, checkpoint.Keep(best=False)) as checkpoints:
        # No loss was measured: any that training measures is better.
        checkpoint.save(checkpoints, 0, state, math.inf)
        checkpoints.wait_until_finished()


def _write_autoencoder(target: pathlib.Path, network: nn.Module, params: dict) -> None:
    target.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
        folder.write_parameters(target, params)
    common.write_json(
        target,
        "config.json",
        {autoencoder.NAME: families.fields(network, without=("dtype",))},
    )
    logging.info("the autoencoder is in %s", target)
