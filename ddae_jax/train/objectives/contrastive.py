"""Contrastive self-distillation, as DDAE++ adds it (Xiang et al., arXiv 2505.10999).

The pooled tap of the denoiser is to agree with that of its own average, which sees
another view of the image under little noise, and not with those of other images. The
loss is MoCo v3's (Chen et al. 2021, arXiv 2104.02057). DDAE++'s code is not public:
what is marked so below is our choice.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
from clu.metrics import Average
from jaxtyping import Array, Bool, Float, Num, PRNGKeyArray

from ddae_jax.data import augment, augment_edm
from ddae_jax.data.augment_strong import StrongAugment
from ddae_jax.denoiser import Denoiser
from ddae_jax.errors import UserError
from ddae_jax.metrics.contrastive import normalise
from ddae_jax.models.pooling import pool
from ddae_jax.settings.fields import setting
from ddae_jax.train.objectives import base
from ddae_jax.train.objectives.base import Examples, Objective, Pass, Setup, Watch
from ddae_jax.train.objectives.projection import Projection
from ddae_jax.train.window import Metrics, single

_ANOTHER_PASS = 1  # folded into the key of the dropout


@dataclasses.dataclass(frozen=True)
class Contrastive(Objective):
    """Agreement of two views between the denoiser and its average."""

    on: bool = base.on_setting()
    weight: float = base.weight_setting(0.1)
    warmup: float = base.warmup_setting(0.1)
    tap: str = setting(
        "",
        "whose mean over positions is compared; empty: self_condition's source, or "
        "what that would be by default",
    )
    views: str = setting(
        "weak",
        "weak: the denoising loss sees the image as train.flip leaves it, the strong "
        "view enters this term alone; edm: both are EDM's augmentation with its labels",
        choices=("weak", "edm"),
    )
    augment_probability: float = setting(
        0.12, "of each EDM augmentation of the second view", least=0, most=1
    )
    symmetric: bool = setting(
        True, "both networks see both views, as in MoCo v3; else each sees one"
    )
    temperature: float = setting(0.2, "of the logits", above=0, most=100)
    hidden: int = setting(
        1024, "width inside projector and predictor", least=1, most=65_536, test=16
    )
    features: int = setting(
        256, "width of what is compared", least=2, most=65_536, test=16
    )
    noise_limit: float = setting(
        0.5, "sigma/alpha above which an image does not count", above=0, most=1e6
    )
    teacher_noise: float = setting(
        0.05, "sigma/alpha of what the average sees", above=0, most=1e6
    )
    teacher_decay: float = setting(
        0.99, "of the average of the denoiser up to the tap", least=0, below=1
    )
    collapse_rank: float = setting(
        2.0, "effective rank of the tap below which it has collapsed", least=1, most=1e6
    )
    stop_on_collapse: bool = setting(False, "end the run then; else it is said once")

    compares_images: ClassVar[bool] = True
    averaged: ClassVar[tuple[str, ...]] = ("projector",)

    def source_tap(self, denoiser: Denoiser) -> str:
        """The tap that is compared."""
        network = denoiser.network
        source = self.tap or network.self_condition_source()
        return source or network.self_condition_default

    def taps(self, denoiser: Denoiser) -> tuple[str, ...]:
        """The one that is compared."""
        return (self.source_tap(denoiser),)

    def check(self, setup: Setup) -> None:
        """Raises a UserError where the network cannot be given what is needed."""
        network = setup.denoiser.network
        if not self.source_tap(setup.denoiser):
            raise UserError(
                f"tap: a {type(network).__name__} has no default, name one of its taps"
            )
        if self.views == "edm" and not setup.augment_probability:
            raise UserError(
                "views: edm needs config.train.augment_probability above 0 and a "
                "network with augment_channels=9"
            )
        if setup.conditional and network.null_label is None:
            raise UserError(
                'on: views are compared without classes, and this network has no "no '
                'class": train it without classes, or with a null class'
            )
        if setup.conditional and not setup.label_dropout:
            raise UserError(
                "on: images whose class the network is told are not compared; set "
                "config.train.label_dropout above 0"
            )

    def init(
        self,
        key: PRNGKeyArray,
        denoiser: Denoiser,
        taps: Mapping[str, jax.ShapeDtypeStruct],
        rows: Mapping[str, jax.ShapeDtypeStruct],
    ) -> dict:
        """Draws projector (3 layers) and predictor (2 layers)."""
        tap = taps[self.source_tap(denoiser)]
        of_projector, of_predictor = jax.random.split(key)
        pooled = jnp.zeros((2, tap.shape[-1]))
        projected = jnp.zeros((2, self.features))
        return {
            "projector": self._projector.init(of_projector, pooled)["params"],
            "predictor": self._predictor.init(of_predictor, projected)["params"],
        }

    def averaged_tap(self, denoiser: Denoiser) -> str:
        """The one that is compared."""
        return self.source_tap(denoiser)

    def watch(self, denoiser: Denoiser) -> Watch:
        """The tap that is compared, under the noise that the average sees."""
        return Watch(
            self.source_tap(denoiser),
            self.teacher_noise,
            self.collapse_rank,
            self.stop_on_collapse,
        )

    def draw(
        self,
        key: PRNGKeyArray,
        images: Num[Array, "batch height width channels"],
        rows: Mapping[str, Array],
        examples: Examples,
        denoiser: Denoiser,
    ) -> dict[str, Array]:
        """Draws the second view, and the noise of all passes but the training's."""
        of_view, of_student, of_first, of_second = jax.random.split(key, 4)
        x0 = augment.to_float(images)
        drawn = {"first_noise": jax.random.normal(of_first, x0.shape)}
        drawn["second_noise"] = jax.random.normal(of_second, x0.shape)
        if self.symmetric:
            drawn["student_noise"] = jax.random.normal(of_student, x0.shape)
        if self.views == "edm":
            view, labels = augment_edm.augment(of_view, x0, self.augment_probability)
            return drawn | {"view": view, "augment_labels": labels}
        keys = augment.example_keys(of_view, jnp.arange(len(x0)))
        colours = images.dtype == jnp.uint8 and x0.shape[-1] in (1, 3)
        return drawn | {"view": _strong_view(colours)(keys, x0)}

    def __call__(
        self, own: dict, teacher: dict, drawn: Any, student: Pass
    ) -> tuple[Float[Array, ""], Metrics]:
        """Returns the symmetric InfoNCE of the images under little enough noise.

        Of the training pass, those alone whose class the network was not told: a class
        would give the partner away.
        """
        denoiser, examples = student.denoiser, student.examples
        name = self.source_tap(denoiser)
        extra = denoiser.network.extra_tokens
        counts = denoiser.process.noise_level(examples.time) <= self.noise_limit
        labels = drawn.get("augment_labels")

        def online(tap):
            projected = self._projector.apply({"params": own["projector"]}, tap)
            return self._predictor.apply({"params": own["predictor"]}, projected)

        def average(x0, noise, labels):
            """What the average makes of a view."""
            level = jnp.full(len(x0), self.teacher_noise)
            time = denoiser.process.time_at(level)
            x_t = denoiser.process.add_noise(x0, noise, time)
            params = teacher["denoiser"]
            taps = denoiser.taps(params, x_t, time, (name,), augment_labels=labels)
            weights = {"params": teacher["projector"]}
            return self._projector.apply(weights, pool(taps[name], extra))

        first, of_first = pool(student.taps[name], extra), counts
        if examples.labels is not None:
            of_first &= examples.labels == denoiser.network.null_label
        key_of_second = average(drawn["view"], drawn["second_noise"], labels)
        found = [info_nce(online(first), key_of_second, of_first, self.temperature)]
        if self.symmetric:
            x_t = denoiser.process.add_noise(
                drawn["view"], drawn["student_noise"], examples.time
            )
            dropout = student.dropout_key
            if dropout is not None:
                dropout = jax.random.fold_in(dropout, _ANOTHER_PASS)
            taps = denoiser.taps(
                student.params,
                x_t,
                examples.time,
                (name,),
                augment_labels=labels,
                dropout_key=dropout,
            )
            key_of_first = average(
                examples.x0, drawn["first_noise"], examples.augment_labels
            )
            second = online(pool(taps[name], extra))
            found.append(info_nce(second, key_of_first, counts, self.temperature))
        loss = sum(one.loss for one in found)
        # How far the directions spread: 1 where they cancel out, 0 where all are one.
        variance = jnp.var(normalise(first), axis=0).sum()
        metrics = {"loss": single(loss), "feature_variance": single(variance)}
        for part in ("accuracy", "cosine"):
            values = [getattr(one, part) for one in found]
            metrics[part] = Average.from_model_output(
                jnp.concatenate(values),
                jnp.concatenate([of_first, counts][: len(found)]),
            )
        return loss, metrics

    @property
    def _projector(self) -> Projection:
        return Projection((self.hidden, self.hidden, self.features), batch_norm=True)

    @property
    def _predictor(self) -> Projection:
        return Projection((self.hidden, self.features), batch_norm=True)


def _strong_view(colours: bool) -> StrongAugment:
    """What a weak view is compared with.

    Latents have neither colours nor pixels to blur, and a mirrored latent is not that
    of the mirrored image: they are cropped alone. The posterior is drawn anew for the
    view, and the mirrored copy taken by a coin of its own. Our choice.
    """
    if colours:
        return StrongAugment()
    return StrongAugment(
        jitter_probability=0.0, grey_probability=0.0, blur_probability=0.0, flip=False
    )


@flax.struct.dataclass
class Comparison:
    """Attributes:
    loss: the mean over those that count, 0 where none does.
    accuracy: whether the own partner is the nearest of all.
    cosine: between partners.
    """

    loss: Float[Array, ""]
    accuracy: Bool[Array, "batch"]
    cosine: Float[Array, "batch"]


def info_nce(
    queries: Float[Array, "batch features"],
    keys: Float[Array, "batch features"],
    counts: Bool[Array, "batch"],
    temperature: float,
) -> Comparison:
    """Cross-entropy of finding the own key among all of the batch.

    2 tau times the InfoNCE loss of cosines, as MoCo v3's code scales its equation 1:
    so the gradient depends less on the temperature.

    Args:
      counts: which queries enter the mean; all keys are candidates.
    """
    cosines = jnp.dot(
        normalise(queries), normalise(keys).T, precision=jax.lax.Precision.HIGHEST
    )
    own = jnp.diagonal(cosines)
    logits = cosines / temperature
    losses = jax.nn.logsumexp(logits, axis=-1) - jnp.diagonal(logits)
    share = counts / jnp.maximum(counts.sum(), 1)
    loss = 2 * temperature * jnp.sum(losses * share)
    return Comparison(loss, cosines.argmax(axis=-1) == jnp.arange(len(own)), own)
