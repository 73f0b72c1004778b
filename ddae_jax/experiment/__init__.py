"""What every task takes: a workdir, its settings, and what they name."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from ddae_jax.data import arrays as arrays_data
from ddae_jax.data import latents as latents_data
from ddae_jax.data import sources
from ddae_jax.data.source import Source
from ddae_jax.denoiser import Denoiser
from ddae_jax.errors import UserError
from ddae_jax.experiment import autoencoder
from ddae_jax.experiment.trained import Trained
from ddae_jax.features.latents import Latents
from ddae_jax.runtime import checkpoint, files, parallel, processes
from ddae_jax.runtime.downloaded import local_folder
from ddae_jax.runtime.object_store import is_url
from ddae_jax.runtime.random import stream
from ddae_jax.settings.root import Settings
from ddae_jax.train import objectives as train_objectives
from ddae_jax.train import optimizers
from ddae_jax.train import state as train_state
from ddae_jax.train.feed import Feed
from ddae_jax.train.objective_state import Named
from ddae_jax.train.step import TrainStep

DATA = "data.json"
"""What the denoiser of a workdir was trained on."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A run: how, and where its results are. All else is opened when it is asked for.

    Attributes:
      settings: how.
      workdir: everything that the run leaves.
      opened: data sets that were asked for, by split and settings.
    """

    settings: Settings
    workdir: pathlib.Path
    opened: dict[Any, Source] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )

    @functools.cached_property
    def mesh(self) -> Mesh:
        """Of the devices at hand."""
        return parallel.make_mesh(self.settings.mesh.fsdp, self.settings.mesh.tensor)

    @functools.cached_property
    def denoiser(self) -> Denoiser:
        """The network under the process that the settings describe.

        Raises:
          UserError: config.mesh.tensor is more than 1, and the network cannot be split
            so.
        """
        network, tensor = self.settings.network, self.settings.mesh.tensor
        network.check_tensor_parallel(tensor)
        if tensor > 1:
            network = network.clone(mesh=self.mesh)
        return Denoiser(network, self.settings.process)

    def source(self, split: str) -> Source:
        """The data set; `split` is "train" or "test".

        Latents and arrays lie in WORKDIR/latents and WORKDIR/arrays where
        config.data.folder names no other folder.

        Raises:
          UserError: it is not there or damaged; or it holds latents that the
            autoencoder of this workdir has not made.
        """
        data = self.settings.data
        folder = data.folder or None
        if folder is None and data.name in (latents_data.NAME, arrays_data.NAME):
            folder = str(self.workdir / data.name)
        if (split, data) not in self.opened:
            if folder is not None and is_url(folder):
                folder = str(local_folder(folder, "config.data.folder"))
            self.opened[split, data] = sources.load(
                data.name,
                split,
                folder=folder,
                image_size=data.image_size,
                channels=data.channels,
                resize=data.resize,
                resident_bytes=data.resident_bytes,
            )
            self._check_latents(self.opened[split, data])
        return self.opened[split, data]

    def _check_latents(self, source: Source) -> None:
        section = self.settings.autoencoder
        path = autoencoder.find(section, self.workdir)
        if source.form.are_images or path is None:
            return
        made = source.form.facts[latents_data.NAME]
        autoencoder.load(section, self.settings.dtype, path, source.image_shape, made)

    def stream(self, name: str) -> PRNGKeyArray:
        """The random stream of this name, under the run's seed."""
        return stream(self.settings.seed, name)

    def changed(self, section: str, **values: Any) -> "Experiment":
        """The same run with other values of some fields of a section."""
        new = dataclasses.replace(getattr(self.settings, section), **values)
        settings = dataclasses.replace(self.settings, **{section: new})
        return dataclasses.replace(self, settings=settings)

    def feed(
        self, source: Source, beside: Mapping[str, np.ndarray] | None = None
    ) -> Feed:
        """The batches of pre-training; see `Feed` for `beside`.

        Raises:
          UserError: images of this form cannot be augmented as the settings say.
        """
        train = self.settings.train
        source.form.check(train.flip, train.augment_probability)
        return Feed(
            source,
            train.batch_size,
            self.settings.seed,
            self.mesh,
            self.settings.data.threads,
            beside,
        )

    @property
    def objectives(self) -> Named:
        """(name, term of the training loss) of those that are on."""
        return train_objectives.chosen(self.settings.section("objectives"))

    def train_step(
        self, class_count: int, objectives: Named | None = None
    ) -> TrainStep:
        """The training recipe.

        Args:
          objectives: beside the denoising loss; None takes those of the settings.

        Raises:
          UserError: class-conditional training of a network that cannot take the
            classes.
        """
        if objectives is None:
            objectives = self.objectives
        train = self.settings.train
        if train.class_conditional:
            self._check_conditional(class_count)
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
            self.denoiser,
            optimizer,
            ema_cap=train.ema_decay,
            ema_warmup=train.ema_warmup,
            flip=train.flip,
            augment_probability=train.augment_probability,
            conditional=train.class_conditional,
            label_dropout=train.label_dropout,
            objectives=objectives,
            steps=max(train.steps, 1) if objectives else 1,
        )

    def _check_conditional(self, class_count: int) -> None:
        network = self.settings.network
        if network.num_classes != class_count:
            raise UserError(
                f"config.network.num_classes: {network.num_classes}, but "
                f"{self.settings.data.name} has {class_count} classes and "
                "config.train.class_conditional is on"
            )
        if self.settings.train.label_dropout and network.null_label is None:
            raise UserError(
                'config.train.label_dropout: this network has no label for "no class"; '
                "set it to 0, or config.network.null_class=True"
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of what the denoiser of this workdir takes."""
        return tuple(self._data("image_shape", list))

    @property
    def class_count(self) -> int:
        """Of the data set that the denoiser of this workdir was trained on."""
        return self._data("class_count", int)

    def _data(self, name: str, kind: type) -> Any:
        value = self.read_json(DATA).get(name)
        if not isinstance(value, kind):
            raise UserError(f"{self.workdir / DATA}: damaged: {name} is {value!r}")
        return value

    def describe_data(
        self, source: Source, started_from: dict[str, Any] | None = None
    ) -> None:
        """Writes down what the denoiser is trained on, and from what on.

        Args:
          started_from: the weights that it began with, {} for its own; None leaves
            what is there.
        """
        known = files.read_json(self.workdir / DATA) or {}
        self._check_same_latents(known, source)
        if started_from is None:
            started_from = known.get("started_from")
        begun = {"started_from": started_from} if started_from else {}
        self.write_json(
            DATA,
            begun
            | {
                "name": source.name,
                "train_images": len(source),
                "image_shape": list(source.image_shape),
                "class_count": len(source.class_names),
                "class_names": list(source.class_names),
                **source.form.facts,
            },
        )

    def _check_same_latents(self, known: Mapping[str, Any], source: Source) -> None:
        name = latents_data.NAME
        before, now = known.get(name), source.form.facts.get(name)
        # As JSON has them: tuples are lists.
        if before == json.loads(json.dumps(now)) or known.get("train_images") is None:
            return
        if checkpoint.has_any(self.workdir):
            raise UserError(
                f"{self.workdir} was trained on other latents than {source.name}, or "
                "on the same in another scale; name another workdir"
            )

    def trained(self, step: int | None = None) -> Trained:
        """The EMA weights of `step`; None is settings.checkpoint.step.

        Raises:
          UserError: there is no such checkpoint.
        """
        wanted = self.settings.checkpoint.step if step is None else step
        step = checkpoint.choose_step(self.workdir, wanted)
        shapes = {"ema": self.denoiser.parameter_shapes(self.image_shape)}
        shardings = self._shardings(shapes)
        with checkpoint.manager(self.workdir) as checkpoints:
            found = checkpoint.restore_part(checkpoints, step, shapes, shardings)
        return self.with_weights(found["ema"], step)

    def untrained(self) -> Trained:
        """The denoiser at the random weights at which its training starts."""
        shapes = self.denoiser.parameter_shapes(self.image_shape)
        params = train_state.initial_parameters(
            self.denoiser,
            self.stream("train/init"),
            self.image_shape,
            self._shardings(shapes),
        )
        return self.with_weights(params, 0)

    def _shardings(self, shapes: dict) -> dict:
        rules = self.denoiser.network.partition_rules
        return parallel.state_shardings(self.mesh, shapes, rules)

    def with_weights(self, params: dict, step: int) -> Trained:
        """The denoiser at `params`, which lie on the mesh, beside its autoencoder.

        Raises:
          UserError: the autoencoder's files do not go together, or not with the
            denoiser.
        """
        shape = self.image_shape
        latents, weights = self.autoencoder(shape)
        if weights is not None:
            weights = jax.device_put(weights, parallel.replicated(self.mesh))
        return Trained(self.denoiser, params, step, shape, self.mesh, latents, weights)

    def autoencoder(
        self, latent_shape: tuple[int, int, int]
    ) -> tuple[Latents | None, dict | None]:
        """What belongs to a denoiser of latents, its parameters on the host; or Nones.

        Raises:
          UserError: its files do not go together, or not with the denoiser.
        """
        section = self.settings.autoencoder
        path = autoencoder.find(section, self.workdir)
        if path is None:
            return None, None
        trained_on = (files.read_json(self.workdir / DATA) or {}).get(latents_data.NAME)
        return autoencoder.load(
            section, self.settings.dtype, path, latent_shape, trained_on
        )

    def write_json(self, name: str, content: dict) -> None:
        """Writes WORKDIR/`name`, whole or not at all: `processes.on_first`."""
        processes.on_first(lambda: files.write_json(self.workdir / name, content))

    def read_json(self, name: str) -> dict:
        """Reads WORKDIR/`name`.

        Raises:
          FileNotFoundError: there is none.
          UserError: it is damaged.
        """
        return files.read_object(self.workdir / name)
