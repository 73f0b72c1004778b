"""From a folder to features in five lines: `ddae_jax.load`."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, UInt8
from ml_collections import ConfigDict

from ddae_jax import command_line, compiler, parallel
from ddae_jax import config as config_lib
from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion import SAMPLERS
from ddae_jax.errors import UserError
from ddae_jax.features import example_noise, extract
from ddae_jax.generate import draw_function
from ddae_jax.tasks import common
from ddae_jax.weights import folder as weights_folder

Images = Num[np.ndarray, "n height width channels"]


def load(path: str | pathlib.Path, batch_size: int = 64) -> "Model":
    """Loads a denoiser with its EMA weights.

    Args:
      path: a folder that --task=export wrote, or the workdir of a run.
      batch_size: in how large pieces its methods go through many images.

    Raises:
      UserError: there is no such folder; it is neither of the two; or its files do not
        go together.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1")
    exported = (path / weights_folder.FILE).is_file()
    if not exported and not (path / "checkpoints").is_dir():
        raise UserError(
            f"{path}: neither an exported folder ({weights_folder.FILE}) nor the "
            "workdir of a run (checkpoints)"
        )
    config, image_shape = _description(path)
    if exported:
        denoiser = common.denoiser(config)
        shapes = jax.eval_shape(
            lambda key: denoiser.init(key, image_shape), jax.random.key(0)
        )
        params = jax.device_put(weights_folder.read_parameters(path, shapes))
    else:
        trained = common.restore_ema(config, path)
        denoiser, params = (
            trained.denoiser,
            jax.device_put(parallel.on_host(trained.params)),
        )
    return Model(denoiser, params, image_shape, config, batch_size)


def _description(path: pathlib.Path) -> tuple[ConfigDict, tuple[int, int, int]]:
    try:
        config = command_line.read_saved(path)
        if config is None:
            raise UserError(f"{path}: config.json is missing")
        image_shape = tuple(common.read_json(path, "data.json")["image_shape"])
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: data.json is missing") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, json.JSONDecodeError):
            raise UserError(f"{path}: data.json is not JSON: {error}") from error
        reason = str(error).split("\n")[0]
        raise UserError(
            f"{path}: config.json or data.json are not of a denoiser: {reason}"
        ) from error
    return config, image_shape


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A trained denoiser.

    Attributes:
      denoiser: the network and its process.
      params: its EMA weights.
      image_shape: (height, width, channels) of its images.
      config: how it was configured.
      batch_size: images that go through the network at once.
    """

    denoiser: Denoiser
    params: dict
    image_shape: tuple[int, int, int]
    config: ConfigDict
    batch_size: int = 64

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the layers whose outputs can be features, in order of depth."""
        return tuple(self.denoiser.network.tap_paths())

    def features(
        self, images: Images, tap: str, noise_level: float, seed: int = 0
    ) -> Float[np.ndarray, "n features"]:
        """Features of clean images: one noisy forward pass, averaged over positions.

        Image i gets noise of (seed, i), whatever the batch size.

        Args:
          images: uint8, or floats in [-1, 1], NHWC.
          tap: one of `taps`.
          noise_level: sigma/alpha of the noise to add, positive; 0.05 to 0.2 is usual.
          seed: of the noise.

        Raises:
          UserError: an argument is not as described.
        """
        if tap not in self.taps:
            raise UserError(config_lib.unknown("tap", tap, self.taps))
        images = self._checked("images", images, clean=True)
        time = self._time(noise_level)
        encode = _features_program(self.denoiser, tap)
        key = jax.random.key(seed)
        parts = [
            encode(self.params, batch, indices, time, key)
            for batch, indices in self._batches(images)
        ]
        return np.concatenate(parts)[: len(images)]

    def denoise(
        self, noisy: Images, noise_level: float
    ) -> Float[np.ndarray, "n height width channels"]:
        """Estimates clean images, about in [-1, 1].

        Args:
          noisy: clean images in [-1, 1] plus `noise_level` times standard normal
            noise, NHWC, whatever the network's own process.
          noise_level: positive.

        Raises:
          UserError: an argument is not as described.
        """
        noisy = self._checked("noisy", noisy, clean=False)
        time = self._time(noise_level)
        estimate = _denoise_program(self.denoiser)
        parts = [
            estimate(self.params, batch, time) for batch, _ in self._batches(noisy)
        ]
        return np.concatenate(parts)[: len(noisy)]

    def sample(
        self, n: int, seed: int = 0, steps: int | None = None, label: int | None = None
    ) -> UInt8[np.ndarray, "n height width channels"]:
        """Draws images. Image i depends on (seed, i) alone.

        Args:
          n: how many.
          seed: of the noise.
          steps: of the sampler; None takes the number in the model's config.
          label: class of all of them, where the network was trained with classes; None
            is no class.

        Raises:
          UserError: `n` is not positive, there is no such class, or the sampler does
            not have such steps.
        """
        if n < 1:
            raise UserError(f"n is {n}; it must be at least 1")
        options = dict(self.config.sampler)
        name = options.pop("name")
        if steps is not None:
            if "steps" not in options:
                raise UserError(f"steps: the sampler {name} has none")
            options["steps"] = steps
        classes = getattr(self.denoiser.network, "num_classes", 0)
        if label is not None and not 0 <= label < classes:
            raise UserError(f"label is {label}; the network has {classes} classes")
        draw = _sample_program(
            self.denoiser,
            self.image_shape,
            SAMPLERS[self.config.process.name][name],
            tuple(options.items()),
        )
        key = jax.random.fold_in(jax.random.key(seed), 2)  # as the task sample does
        size = min(self.batch_size, n)
        labels = None if label is None else np.full(size, label, np.int32)
        parts = [
            draw(
                self.params, key, np.arange(start, start + size, dtype=np.int32), labels
            )
            for start in range(0, n, size)
        ]
        return np.concatenate(parts)[:n]

    def _checked(self, name: str, images: Images, clean: bool) -> np.ndarray:
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[1:] != self.image_shape or not len(images):
            raise UserError(
                f"{name}: shape {images.shape}, but the model takes (n, "
                f"{', '.join(map(str, self.image_shape))})"
            )
        if clean and images.dtype == np.uint8:
            return images
        if images.dtype.kind != "f":
            kinds = "uint8 or floats in [-1, 1]" if clean else "floats"
            raise UserError(f"{name}: type {images.dtype}; give {kinds}")
        images = images.astype(np.float32)
        # Latents, of four channels and more, have no such range.
        limit = 1.0 + 1e-4 if clean and self.image_shape[-1] <= 3 else np.inf
        if not np.isfinite(images).all() or np.abs(images).max() > limit:
            raise UserError(
                f"{name}: values from {images.min():.4g} to {images.max():.4g}; floats "
                f"must be {'in [-1, 1]' if np.isfinite(limit) else 'finite'}"
            )
        return images

    def _time(self, noise_level: float) -> jax.Array:
        if not 0 < noise_level < np.inf:
            raise UserError(f"noise_level is {noise_level}; it must be positive")
        return self.denoiser.process.time_at(jnp.asarray([noise_level], jnp.float32))[0]

    def _batches(self, images: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of one size, the last filled up with its last image."""
        size = self.batch_size
        for start in range(0, len(images), size):
            indices = np.arange(start, start + size, dtype=np.int32)
            yield images[np.minimum(indices, len(images) - 1)], indices


@functools.lru_cache(maxsize=64)
def _features_program(denoiser: Denoiser, tap: str) -> Callable[..., Array]:
    def encode(params, images, indices, time, key):
        x0 = images.astype(jnp.float32)
        if images.dtype == jnp.uint8:
            x0 = x0 / 127.5 - 1
        noise = example_noise(key, indices, images.shape[1:])
        return extract(denoiser, params, x0, time, noise, (tap,))[tap]

    return jax.jit(encode, compiler_options=compiler.options())


@functools.lru_cache(maxsize=16)
def _denoise_program(denoiser: Denoiser) -> Callable[..., Array]:
    def estimate(params, noisy, time):
        times = jnp.broadcast_to(time, (len(noisy),))
        alpha = denoiser.process.alpha(times)[:, None, None, None]
        return denoiser.x0(params, alpha * noisy, times)

    return jax.jit(estimate, compiler_options=compiler.options())


@functools.lru_cache(maxsize=16)
def _sample_program(
    denoiser: Denoiser,
    image_shape: tuple[int, int, int],
    sampler: Callable,
    options: tuple[tuple[str, Any], ...],
) -> Callable[..., Array]:
    draw = draw_function(denoiser, sampler, dict(options), image_shape)
    return jax.jit(draw, compiler_options=compiler.options())
