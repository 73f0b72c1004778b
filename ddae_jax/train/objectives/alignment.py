"""Alignment with features of another encoder, REPA (Yu et al. 2024, arXiv 2410.06940).

The features are the user's own: an array on disk, in the order of the training set.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu.metrics import Average
from jaxtyping import Array, Float, Num, PRNGKeyArray

from ddae_jax.data import augment
from ddae_jax.denoiser import Denoiser
from ddae_jax.errors import UserError
from ddae_jax.models import pooling
from ddae_jax.runtime import files
from ddae_jax.settings.fields import setting
from ddae_jax.train.objectives import base
from ddae_jax.train.objectives.base import Examples, Objective, Pass, Setup
from ddae_jax.train.objectives.projection import Projection
from ddae_jax.train.window import Metrics

_KINDS = (np.float16, np.float32, np.float64)


@dataclasses.dataclass(frozen=True)
class Alignment(Objective):
    """Agreement of a tap, position by position, with given features."""

    on: bool = base.on_setting()
    weight: float = base.weight_setting(0.5)
    warmup: float = base.warmup_setting(0.0)
    features: str = setting(
        "",
        "a .npy of one row per training image, (images, width) or (images, rows, "
        "columns, width); or the folder of a feature network",
    )
    tap: str = setting("", "which is aligned; empty: a third of the way to the last")
    hidden: int = setting(
        2048, "width inside the projector", least=1, most=65_536, test=16
    )

    array_names: ClassVar[tuple[str, ...]] = ("features",)

    def taps(self, denoiser: Denoiser) -> tuple[str, ...]:
        """The one that is aligned."""
        return (self.tap or base.tap_at(denoiser, 1 / 3),)

    def check(self, setup: Setup) -> None:
        """Raises a UserError where positions of images and of features part ways."""
        if setup.augment_probability:
            raise UserError(
                "features: they are of images that are not warped; set "
                "config.train.augment_probability=0"
            )

    def arrays(self, setup: Setup) -> dict[str, np.ndarray]:
        """Opens the file; its rows are read as they are needed."""
        file, folder = self.features, pathlib.Path(self.features).expanduser()
        if file and folder.is_dir():
            file = str(setup.features_of(folder))
        return {"features": open_features(file, len(setup.source))}

    def init(
        self,
        key: PRNGKeyArray,
        denoiser: Denoiser,
        taps: Mapping[str, jax.ShapeDtypeStruct],
        rows: Mapping[str, jax.ShapeDtypeStruct],
    ) -> dict:
        """Draws the projector."""
        (name,) = self.taps(denoiser)
        projector = self._projector(rows["features"].shape[-1])
        example = jnp.zeros((1, taps[name].shape[-1]))
        return {"projector": projector.init(key, example)["params"]}

    def draw(
        self,
        key: PRNGKeyArray,
        images: Num[Array, "batch height width channels"],
        rows: Mapping[str, Array],
        examples: Examples,
        denoiser: Denoiser,
    ) -> dict[str, Array]:
        """Takes the rows; a map is mirrored with its image.

        An encoder's features of a mirrored image are not quite the mirrored ones.
        """
        features = rows["features"].astype(jnp.float32)
        if features.ndim == 4 and examples.flipped is not None:
            features = augment.flip(examples.flipped, features)
        return {"features": features}

    def __call__(
        self, own: dict, teacher: dict, drawn: Any, student: Pass
    ) -> tuple[Float[Array, ""], Metrics]:
        """Returns minus the mean cosine over positions (equation 8)."""
        denoiser, target = student.denoiser, drawn["features"]
        (name,) = self.taps(denoiser)
        extra = denoiser.network.extra_tokens
        given = pooling.positions(student.taps[name], extra)
        if target.ndim == 2:
            given = given.mean(axis=1)
        else:
            given = pooling.grid(given, student.examples.x0.shape[1:3])
            given = pooling.matched(given, target.shape[1:3])
        projector = self._projector(target.shape[-1])
        predicted = projector.apply({"params": own["projector"]}, given)
        cosine = optax.losses.cosine_similarity(predicted, target, epsilon=1e-6)
        cosine = cosine.reshape(len(target), -1).mean(axis=1)
        return -cosine.mean(), {"cosine": Average.from_model_output(cosine)}

    def _projector(self, width: int) -> Projection:
        return Projection((self.hidden, self.hidden, width), batch_norm=False)


def open_features(path: str, count: int) -> np.ndarray:
    """Maps an array of features from its file.

    Args:
      count: images of the training set.

    Raises:
      UserError: there is no such file, or its array is not of this training set.
    """
    if not path:
        raise UserError("features: name a .npy file, or a feature network's folder")
    file = pathlib.Path(path).expanduser()
    if file.is_dir():
        raise UserError(f"features: {path} is a folder, not a .npy file")
    try:
        array = files.map_array(file)
    except FileNotFoundError as error:
        raise UserError(f"features: there is no file {path}") from error
    except UserError as error:
        raise UserError(f"features: {error}") from error
    if array.dtype not in _KINDS:
        raise UserError(
            f"features: {path}: not an array of float16, float32 or float64 in the "
            "byte order of this machine"
        )
    if array.ndim not in (2, 4) or 0 in array.shape:
        raise UserError(
            f"features: {path}: shape {array.shape}; (images, width) or (images, rows, "
            "columns, width) is wanted"
        )
    if len(array) != count:
        raise UserError(
            f"features: {path}: {len(array)} rows, the training set has {count} images"
        )
    return array
