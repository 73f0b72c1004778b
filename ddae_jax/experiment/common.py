"""What tasks share: from a config to the objects that the floors below take."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddae_jax.data import source as data_source
from ddae_jax.data import sources
from ddae_jax.denoiser import Denoiser
from ddae_jax.errors import UserError
from ddae_jax.experiment import autoencoder
from ddae_jax.features.encode import Encode, Encoder
from ddae_jax.features.latents import LatentEncoder, Latents
from ddae_jax.runtime import checkpoint, parallel
from ddae_jax.runtime.files import replacing
from ddae_jax.runtime.random import stream
from ddae_jax.settings import schema
from ddae_jax.train import optimizers
from ddae_jax.train import state as train_state
from ddae_jax.train.step import TrainStep


def denoiser(config: ConfigDict) -> Denoiser:
    """The network under the process that the config describes."""
    return Denoiser(schema.network(config), schema.process(config))


def load_source(config: ConfigDict, split: str) -> data_source.Source:
    """The data set of the config: `split` is "train" or "test"."""
    return sources.load(
        config.data.name,
        split,
        folder=config.data.folder or None,
        image_size=config.data.image_size,
        channels=config.data.channels,
        resident_bytes=config.data.resident_bytes,
    )


def train_step(config: ConfigDict, class_count: int) -> TrainStep:
    """The training recipe of the config.

    Raises:
      UserError: class-conditional training of a network that cannot take the classes.
    """
    train = config.train
    if train.class_conditional:
        _check_conditional(config, class_count)
    schedule = optimizers.Warmup(
        train.learning_rate, train.warmup_steps, train.decay_from
    )
    optimizer = optimizers.Adam(
        schedule,
        train.adam_b1,
        train.adam_b2,
        train.adam_epsilon,
        train.clip_norm,
        train.weight_decay,
    )
    return TrainStep(
        denoiser(config),
        optimizer,
        ema_cap=train.ema_decay,
        ema_warmup=train.ema_warmup,
        flip=train.flip,
        augment_probability=train.augment_probability,
        conditional=train.class_conditional,
        label_dropout=train.label_dropout,
    )


def _check_conditional(config: ConfigDict, class_count: int) -> None:
    given = getattr(config.network, "num_classes", 0)
    if given != class_count:
        raise UserError(
            f"config.network.num_classes: {given}, but {config.data.name} has "
            f"{class_count} classes and config.train.class_conditional is on"
        )
    if config.train.label_dropout and schema.network(config).null_label is None:
        raise UserError(
            'config.train.label_dropout: this network has no label for "no class"; '
            "set it to 0, or config.network.null_class=True"
        )


@dataclasses.dataclass(frozen=True)
class Trained:
    """A denoiser with the EMA weights of one checkpoint, or none.

    Attributes:
      denoiser: the network and its process.
      params: EMA weights, on the mesh as they are trained.
      step: optimiser steps behind them.
      image_shape: (height, width, channels).
      mesh: of the devices at hand.
      latents: of a denoiser of latents: how they belong to images.
      autoencoder: weights for it, replicated over the mesh.
    """

    denoiser: Denoiser
    params: dict
    step: int
    image_shape: tuple[int, int, int]
    mesh: Mesh
    latents: Latents | None = None
    autoencoder: dict | None = None

    @property
    def variables(self) -> dict:
        """What `encoder` and the samplers take as params."""
        if self.latents is None:
            return self.params
        return {"denoiser": self.params, "autoencoder": self.autoencoder}


def encoder(trained: Trained, taps: Sequence[str], pooled: bool = True) -> Encode:
    """(trained.variables, x0, noise, time) -> tap -> features; x0 are images.

    Features of all positions where not `pooled`.
    """
    of_denoiser = Encoder(trained.denoiser, tuple(taps), pooled)
    if trained.latents is None:
        return of_denoiser
    return LatentEncoder(of_denoiser, trained.latents)


def check_images(trained: Trained, source: data_source.Source) -> None:
    """Raises a UserError where `encoder` cannot take the images of `source`."""
    given = tuple(source.image_shape)
    wanted = f"the checkpoint was trained on {trained.image_shape}"
    if trained.latents is not None:
        if trained.latents.accepts(given):
            return
        wanted = f"the autoencoder takes shapes like {trained.latents.image_shape}"
    elif given == trained.image_shape:
        return
    elif trained.image_shape[-1] > 3:
        wanted = autoencoder.MISSING.format(channels=trained.image_shape[-1])
    raise UserError(f"config.data: images of {source.name} are {given}, {wanted}")


def image_shape(workdir: str | pathlib.Path) -> tuple[int, int, int]:
    """Shape of the images that `workdir` was trained on."""
    return tuple(read_json(workdir, "data.json")["image_shape"])


def restore_ema(
    config: ConfigDict, workdir: str | pathlib.Path, step: int | None = None
) -> Trained:
    """Reads the EMA weights of `step`; None is config.checkpoint.step.

    Raises:
      UserError: there is no such checkpoint.
    """
    wanted = config.checkpoint.step if step is None else step
    step = checkpoint.choose_step(workdir, wanted)
    mesh = parallel.make_mesh(config.mesh.fsdp)
    shape = image_shape(workdir)
    model = denoiser(config)
    shapes = {"ema": model.parameter_shapes(shape)}
    shardings = parallel.state_shardings(mesh, shapes)
    with checkpoint.manager(workdir) as checkpoints:
        ema = checkpoint.restore_part(checkpoints, step, shapes, shardings)["ema"]
    return Trained(
        model, ema, step, shape, mesh, *_autoencoder(config, workdir, shape, mesh)
    )


def _autoencoder(
    config: ConfigDict, workdir: str | pathlib.Path, shape: Sequence[int], mesh: Mesh
) -> tuple[Latents | None, dict | None]:
    path = autoencoder.find(config, workdir)
    if path is None:
        return None, None
    latents, params = autoencoder.load(config, path, shape)
    return latents, jax.device_put(params, parallel.replicated(mesh))


def untrained(config: ConfigDict, workdir: str | pathlib.Path) -> Trained:
    """The same denoiser at its random initial weights."""
    mesh = parallel.make_mesh(config.mesh.fsdp)
    shape = image_shape(workdir)
    model = denoiser(config)
    shardings = parallel.state_shardings(mesh, model.parameter_shapes(shape))
    key = stream(config.seed, "train/init")  # as training starts
    params = train_state.initial_parameters(model, key, shape, shardings)
    return Trained(
        model, params, 0, shape, mesh, *_autoencoder(config, workdir, shape, mesh)
    )


def check_classes(train: data_source.Source, field: str) -> None:
    """Raises a UserError where no classifier can be trained on `train`.

    Args:
      field: of the config: how many images of the training set are used.
    """
    classes = len(train.class_names)
    if classes < 2 or len(np.unique(train.labels)) < 2:
        raise UserError(
            f"config.data.name: the {len(train)} training images used of {train.name} "
            f"are of one class; a classifier needs two ({field} takes the first images)"
        )
    if len(train) < classes:
        raise UserError(
            f"{field}: {len(train)} training images of {train.name} are fewer than its "
            f"{classes} classes"
        )


def write_json(workdir: str | pathlib.Path, name: str, content: dict) -> None:
    """Writes `workdir`/`name`, whole or not at all; process 0 alone."""
    if jax.process_index() == 0:
        path = pathlib.Path(workdir) / name
        with replacing(path) as part:
            part.write_text(json.dumps(content, indent=2) + "\n")


def read_json(workdir: str | pathlib.Path, name: str) -> dict:
    """Reads `workdir`/`name`."""
    return json.loads((pathlib.Path(workdir) / name).read_text())
