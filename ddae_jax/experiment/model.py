"""From a folder to features in five lines: `ddae_jax.load`."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray, UInt8

from ddae_jax.data import augment
from ddae_jax.denoiser import Denoiser
from ddae_jax.errors import UserError
from ddae_jax.experiment import DATA, Experiment, autoencoder
from ddae_jax.experiment.trained import Trained
from ddae_jax.features.encode import Encode, Encoder, example_noise
from ddae_jax.features.latents import LatentEncoder, Latents
from ddae_jax.generate import Generator, generate
from ddae_jax.runtime import compiler, parallel
from ddae_jax.runtime.random import stream
from ddae_jax.settings import saved, schema
from ddae_jax.settings.fields import check_all, declared, unknown
from ddae_jax.settings.root import Settings
from ddae_jax.weights import folder as weights_folder

Images = Num[np.ndarray, "n height width channels"]


def load(
    path: str | pathlib.Path, batch_size: int = 64, step: int | None = None
) -> "Model":
    """Loads a denoiser with its EMA weights.

    All devices work. The weights are shared among as many of them as config.mesh of the
    workdir says, where the number of devices allows it; images are split.

    Args:
      path: a folder that --task=export wrote, or the workdir of a run.
      batch_size: in how large pieces its methods go through many images, rounded up to
        a multiple of the number of devices.
      step: which checkpoint of a workdir; None is the one that its config names, by
        default the latest.

    Raises:
      UserError: there is no such folder, or no such checkpoint in it; it is neither of
        the two; or its files do not go together.
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
    settings, image_shape = _description(path)
    # The run may have had more devices than are at hand.
    tensor = math.gcd(settings.mesh.tensor, jax.local_device_count())
    fsdp = math.gcd(settings.mesh.fsdp, jax.device_count() // tensor)
    experiment = Experiment(settings, path).changed("mesh", fsdp=fsdp, tensor=tensor)
    if not exported:
        return Model(experiment.trained(step), settings, batch_size)
    shapes = experiment.denoiser.parameter_shapes(image_shape)
    params = weights_folder.read_parameters(path, shapes)
    rules = experiment.denoiser.network.partition_rules
    placed = parallel.place_state(experiment.mesh, params, rules)
    step = experiment.read_json(DATA).get("step", 0)
    return Model(experiment.with_weights(placed, step), settings, batch_size)


def _description(path: pathlib.Path) -> tuple[Settings, tuple[int, int, int]]:
    try:
        config = saved.read(path)
        if config is None:
            raise UserError(f"{path}: config.json is missing")
        image_shape = tuple(json.loads((path / DATA).read_text())["image_shape"])
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
    return schema.build(config), image_shape


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A trained denoiser.

    Attributes:
      trained: the denoiser with its weights, on the mesh.
      settings: of the run that trained it.
      batch_size: images that go through the network at once, at least.
    """

    trained: Trained
    settings: Settings
    batch_size: int = 64

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.image_shape))
        count = self.denoiser.parameter_count(self.image_shape)
        return "<Model: {network} under {process}, ".format(**self.settings.names) + (
            f"{count / 1e6:.2f} M parameters, images of {shape}, {len(self.taps)} taps>"
        )

    @property
    def denoiser(self) -> Denoiser:
        """The network and its process."""
        return self.trained.denoiser

    @property
    def params(self) -> dict:
        """Its EMA weights."""
        return self.trained.params

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of its images, or of its latents."""
        return self.trained.image_shape

    @property
    def latents(self) -> Latents | None:
        """Of a denoiser of latents: how they belong to images."""
        return self.trained.latents

    @property
    def autoencoder(self) -> dict | None:
        """Weights for `latents`."""
        return self.trained.autoencoder

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
          images: uint8, or floats in [-1, 1], NHWC. A denoiser of latents with its
            autoencoder takes images of any size, resized to `latents.image_shape` as
            Pillow does; what has the latents' own channels is taken as latents, scaled.
          tap: one of `taps`.
          noise_level: sigma/alpha of the noise to add, positive; 0.05 to 0.2 is usual.
          seed: of the noise.

        Raises:
          UserError: an argument is not as described.
        """
        if tap not in self.taps:
            raise UserError(unknown("tap", tap, self.taps))
        encoder, params = Encoder(self.denoiser, (tap,)), self.params
        if self._encodes(images):
            encoder = LatentEncoder(encoder, self.latents)
            params = self.trained.variables
        images = self._checked("images", images, clean=True)
        time = self._time(noise_level)
        key = stream(seed, "model/features")
        parts = [
            _features(encoder, params, batch, indices, time, key)[tap]
            for batch, indices in self._batches(images)
        ]
        return np.concatenate(parallel.on_host(parts))[: len(images)]

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
        parts = [
            _denoised(self.denoiser, self.params, batch, time)
            for batch, _ in self._batches(noisy)
        ]
        return np.concatenate(parallel.on_host(parts))[: len(noisy)]

    def sample(
        self, n: int, seed: int = 0, steps: int | None = None, label: int | None = None
    ) -> UInt8[np.ndarray, "n height width channels"]:
        """Draws images; latents are decoded. Image i depends on (seed, i) alone.

        Args:
          n: how many.
          seed: of the noise.
          steps: of the sampler; None takes the number in the model's config.
          label: class of all of them, where the network was trained with classes; None
            is no class.

        Raises:
          UserError: `n` is not positive, there is no such class, the sampler does not
            have such steps, or samples are latents and nothing is there to decode them.
        """
        if n < 1:
            raise UserError(f"n is {n}; it must be at least 1")
        if self.latents is None and self.image_shape[-1] > 3:
            raise UserError(autoencoder.MISSING.format(channels=self.image_shape[-1]))
        sampler = self.settings.sampler
        if steps is not None:
            if "steps" not in declared(type(sampler)):
                name = self.settings.names["sampler"]
                raise UserError(f"steps: the sampler {name} has none")
            sampler = dataclasses.replace(sampler, steps=steps)
            check_all("sampler", sampler)
            sampler.check(self.denoiser.process)
        classes = self.denoiser.network.num_classes
        if label is not None and not 0 <= label < classes:
            raise UserError(f"label is {label}; the network has {classes} classes")
        generator = Generator(
            self.denoiser, sampler, self.image_shape, decoder=self.latents
        )
        key = stream(seed, "sample/noise")  # as the task sample does
        variables, split = self.trained.variables, self._split
        parts = [
            generate(
                generator,
                variables,
                key,
                parallel.place(indices, split),
                None if label is None else parallel.place(indices * 0 + label, split),
                split,
            )
            for indices in self._pieces(n, min(self.batch_size, n))
        ]
        return np.concatenate(parallel.on_host(parts))[:n]

    @property
    def _split(self) -> NamedSharding:
        return parallel.batch_sharding(self.trained.mesh)

    def _pieces(self, count: int, size: int) -> Iterator[np.ndarray]:
        """Indices from 0 in pieces of `size`, or a little more, for all devices.

        They go beyond `count` where the last piece would not be full.
        """
        parts = parallel.batch_parts(self.trained.mesh)
        size = -(-size // parts) * parts
        for start in range(0, count, size):
            yield np.arange(start, start + size, dtype=np.int32)

    def _encodes(self, images: Images) -> bool:
        """Whether they are images for the autoencoder."""
        shape = np.shape(images)
        return (
            self.latents is not None
            and len(shape) == 4
            and shape[-1] == self.latents.image_shape[-1] != self.image_shape[-1]
        )

    def _checked(self, name: str, images: Images, clean: bool) -> np.ndarray:
        images = np.asarray(images)
        encodes = clean and self._encodes(images)
        fits = images.shape[1:] == self.image_shape or (
            encodes and self.latents.accepts(images.shape[1:])
        )
        if images.ndim != 4 or not fits or not len(images):
            shape = self.latents.image_shape if encodes else self.image_shape
            raise UserError(
                f"{name}: shape {images.shape}, but the model takes (n, "
                f"{', '.join(map(str, shape))})"
            )
        if clean and images.dtype == np.uint8:
            return images
        if images.dtype.kind != "f":
            kinds = "uint8 or floats in [-1, 1]" if clean else "floats"
            raise UserError(f"{name}: type {images.dtype}; give {kinds}")
        images = images.astype(np.float32)
        if clean and images.shape[-1] <= 3 and images.min() >= 0 and images.max() > 0:
            logging.warning(
                "%s: no value is negative; floats are taken as [-1, 1], of which 0 is "
                "mid-grey: give 2 * x - 1 for values in [0, 1], or uint8",
                name,
            )
        # Latents, of four channels and more, have no such range.
        limit = 1.0 + 1e-4 if clean and images.shape[-1] <= 3 else np.inf
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

    def _batches(self, images: np.ndarray) -> Iterator[tuple[jax.Array, jax.Array]]:
        """Batches of one size, the last filled up with its last image."""
        for indices in self._pieces(len(images), self.batch_size):
            batch = images[np.minimum(indices, len(images) - 1)]
            yield (
                parallel.place(batch, self._split),
                parallel.place(indices, self._split),
            )


@compiler.jit(static_argnames=("encode",))
def _features(
    encode: Encode,
    params: dict,
    images: Num[Array, "batch height width channels"],
    indices: Int[Array, "batch"],
    time: Float[Array, ""],
    key: PRNGKeyArray,
) -> dict[str, Array]:
    x0 = augment.to_float(images) if images.dtype == jnp.uint8 else images
    noise = example_noise(key, indices, encode.noise_shape(images.shape[1:]))
    return encode(params, x0, noise, time)


@compiler.jit(static_argnames=("denoiser",))
def _denoised(
    denoiser: Denoiser,
    params: dict,
    noisy: Float[Array, "batch height width channels"],
    time: Float[Array, ""],
) -> Float[Array, "batch height width channels"]:
    times = jnp.broadcast_to(time, (len(noisy),))
    alpha = denoiser.process.alpha(times)[:, None, None, None]
    return denoiser.x0(params, alpha * noisy, times)
