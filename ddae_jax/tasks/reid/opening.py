"""Settings -> what is trained: the network, its first weights, its recipe."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ddae_jax.data import person_images, person_sets
from ddae_jax.data.person_batches import PersonOrder
from ddae_jax.data.person_images import PersonImages
from ddae_jax.errors import UserError
from ddae_jax.experiment import DATA, Experiment
from ddae_jax.experiment import cell as cells
from ddae_jax.experiment.trained import Trained
from ddae_jax.features.spatial import GridEncoder
from ddae_jax.heads.aligned import AlignedHead
from ddae_jax.models.resnet import ResNet
from ddae_jax.runtime import parallel, processes
from ddae_jax.settings import plain
from ddae_jax.settings.reid import ReidSettings
from ddae_jax.tasks.finetune.classifier import select
from ddae_jax.tasks.reid.losses import Losses
from ddae_jax.tasks.reid.model import DenoiserBackbone, Embedder, ResNetBackbone
from ddae_jax.tasks.reid.training import AdamL2, Augmentation, ReidStep
from ddae_jax.train.optimizers import ConstantThenExponential
from ddae_jax.weights import resnet as resnet_weights


@dataclasses.dataclass(frozen=True)
class Opened:
    """A backbone at the weights that its training starts from.

    Attributes:
      backbone: what gives the map.
      given: its variables, on the mesh; None: random ones are drawn.
      beside: an autoencoder's, on the mesh; None: there is none.
      determined_by: what the weights follow from, JSON-able.
      title: for people.
    """

    backbone: ResNetBackbone | DenoiserBackbone
    given: dict | None
    beside: dict | None
    determined_by: Mapping[str, Any]
    title: str

    def split(self, frozen: bool) -> tuple[dict | None, dict]:
        """What training starts from, and what is not trained."""
        fixed = {} if self.beside is None else {"beside": self.beside}
        if frozen:
            return None, fixed | {"backbone": self.given}
        return self.given, fixed


def backbone(experiment: Experiment, images: PersonImages) -> Opened:
    """The backbone that config.reid describes.

    Raises:
      UserError: no checkpoint, a tap or noise level that does not exist, weights that
        do not fit; images that the denoiser cannot take; random weights that would not
        be trained.
    """
    if experiment.settings.reid.backbone == "resnet":
        return _resnet(experiment)
    return _denoiser(experiment, images)


def _resnet(experiment: Experiment) -> Opened:
    settings = experiment.settings.reid
    network = ResNet(
        settings.resnet.blocks,
        settings.resnet.width,
        settings.resnet.last_stride,
        experiment.settings.dtype,
    )
    given, sha256 = None, None
    if settings.resnet.weights:
        try:
            found = resnet_weights.load(settings.resnet.weights, network)
        except UserError as error:
            raise UserError(f"config.reid.resnet.weights: {error}") from error
        given = parallel.place_state(experiment.mesh, found.variables)
        sha256 = found.sha256
    elif settings.frozen:
        raise UserError(
            "config.reid.frozen: a resnet without config.reid.resnet.weights is random"
        )
    depth = 2 + 3 * sum(settings.resnet.blocks)
    return Opened(
        ResNetBackbone(network),
        given,
        None,
        {"resnet.sha256": sha256},
        f"ResNet-{depth}, {settings.resnet.width} channels, last stride "
        f"{settings.resnet.last_stride}",
    )


def _denoiser(experiment: Experiment, images: PersonImages) -> Opened:
    settings = experiment.settings.reid
    trained = _trained(experiment, images)
    trained.check_images(images.source)
    cell = cells.choose(experiment, "reid", trained.denoiser)
    encode = GridEncoder(trained.encoder((cell.tap,), pooled=False))
    used = trained.denoiser.used_parameters(trained.image_shape, cell.tap)
    found = DenoiserBackbone(
        trained.denoiser,
        encode,
        cell.tap,
        cell.time.time,
        tuple(trained.image_shape),
        trained.latents is not None,
    )
    weights = None if settings.from_scratch else trained.identity((cell.tap,))
    return Opened(
        found,
        {"params": select(trained.params, used)},
        trained.autoencoder,
        {
            "tap": cell.tap,
            "time": cell.time.time,
            "noise_level": cell.time.noise_level,
            "chosen_by": cell.chosen_by,
            "step": trained.step,
            "weights": weights,
            "network": plain.of_chosen(experiment.settings, "network"),
            "process": plain.of_chosen(experiment.settings, "process"),
        },
        f"{experiment.settings.names['network']} up to {cell.tap}, noise level "
        f"{cell.time.noise_level:.3g}"
        + (", random weights" if settings.from_scratch else ""),
    )


def _trained(experiment: Experiment, images: PersonImages) -> Trained:
    """The checkpoint, or random weights, for which no run need have been here."""
    if not experiment.settings.reid.from_scratch:
        return experiment.trained()
    if not processes.on_first((experiment.workdir / DATA).exists):
        experiment.describe_data(images.source)
    return experiment.untrained()


def embedder(settings: ReidSettings, opened: Opened, persons: int) -> Embedder:
    """The backbone under a head for so many persons in training."""
    classes = persons if settings.identity_weight else 0
    head = AlignedHead(classes, settings.stripe_features, settings.pooling)
    return Embedder(opened.backbone, head, settings.projection, settings.frozen)


def recipe(
    settings: ReidSettings, embedder: Embedder, steps_per_epoch: int
) -> ReidStep:
    """One step of the training."""
    schedule = ConstantThenExponential(
        settings.learning_rate,
        settings.decay_from * steps_per_epoch,
        settings.epochs * steps_per_epoch,
        settings.decay_to,
    )
    return ReidStep(
        embedder,
        2 if settings.mutual else 1,
        Losses(
            settings.margin,
            settings.local_weight,
            settings.identity_weight,
            settings.label_smoothing,
            settings.mutual_identity_weight,
            settings.mutual_distance_weight,
            settings.normalise,
        ),
        AdamL2(schedule, settings.weight_decay),
        Augmentation(settings.flip, settings.crop, settings.erase),
    )


def training_images(experiment: Experiment) -> PersonImages:
    """Those of config.data, and of the sets of config.reid.more_training.

    Raises:
      UserError: a set that is not there, or is damaged.
    """
    field = "config.reid.more_training"
    parts = [part(experiment, "train")]
    for given in experiment.settings.reid.more_training:
        name, equals, folder = given.partition("=")
        if not equals:
            raise UserError(f"{field}: {given!r} is not NAME=FOLDER")
        parts.append(_load(experiment, name, "train", folder, fields=(field, field)))
    found = person_images.joined(parts)
    if experiment.settings.reid.drop_single:
        found = person_images.without_singles(found)
    return found


def part(experiment: Experiment, name: str) -> PersonImages:
    """ "train", "query" or "gallery" of config.data; errors as `training_images`."""
    data = experiment.settings.data
    return _load(experiment, data.name, name, data.folder)


def own_part(experiment: Experiment, name: str) -> PersonImages:
    """ "query" or "gallery" of the user's config.reid.folder, else of config.data."""
    folder = experiment.settings.reid.folder
    if not folder:
        return part(experiment, name)
    fields = ("config.data.name", "config.reid.folder")
    return _load(experiment, "market1501", name, folder, fields=fields)


def _load(experiment, name, wanted, folder, **options) -> PersonImages:
    data = experiment.settings.data
    return person_sets.load(
        name,
        wanted,
        folder=folder or None,
        width=data.image_size,
        channels=data.channels,
        resident_bytes=data.resident_bytes,
        resize=data.resize,
        **options,
    )


def order(experiment: Experiment, images: PersonImages) -> PersonOrder:
    """The batches; a UserError where they cannot be drawn."""
    settings = experiment.settings.reid
    return PersonOrder(
        experiment.settings.seed,
        images,
        settings.persons,
        settings.images_each,
        settings.repeat_images,
    )
