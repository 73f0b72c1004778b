"""From a folder to features in five lines: `ddae_jax.load`."""

import dataclasses
import html
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, UInt8

from ddae_jax.denoiser import Denoiser
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment, autoencoder, cell, opening
from ddae_jax.experiment.trained import Trained
from ddae_jax.features.latents import Latents
from ddae_jax.generate import Generator, generate
from ddae_jax.interface import batches, checked
from ddae_jax.interface.checked import Images
from ddae_jax.interface.features import Features, features
from ddae_jax.interface.labels import Labelled
from ddae_jax.interface.probing import ProbeResult, probe_arrays, probe_workdir
from ddae_jax.runtime import compiler, parallel, program_cache
from ddae_jax.runtime.object_store import is_url
from ddae_jax.runtime.random import stream
from ddae_jax.settings.fields import check_all, declared
from ddae_jax.settings.root import Settings


def load(
    path: str | pathlib.Path, batch_size: int = 64, step: int | None = None
) -> "Model":
    """Loads a denoiser with its EMA weights.

    All devices work. The weights are shared among as many of them as config.mesh of
    the workdir says, where the number of devices allows it; images are split.

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
    if is_url(path):
        raise UserError(f"{path}: copy it to a local folder (aws s3 cp --recursive)")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1")
    program_cache.prepare()
    experiment, trained = opening.open_folder(pathlib.Path(path), step)
    return Model(trained, experiment, batch_size)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A trained denoiser.

    Attributes:
      trained: the denoiser with its weights, on the mesh.
      experiment: the run that trained it.
      batch_size: images that go through the network at once, at least.
    """

    trained: Trained
    experiment: Experiment
    batch_size: int = 64

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.image_shape))
        count = self.denoiser.parameter_count(self.image_shape)
        return "<Model: {network} under {process}, ".format(**self.settings.names) + (
            f"{count / 1e6:.2f} M parameters, images of {shape}, {len(self.taps)} taps>"
        )

    def _repr_html_(self) -> str:
        text = f"{self!r}\n{self.workdir}, step {self.trained.step}\n"
        return f"<pre>{html.escape(text + 'taps: ' + ', '.join(self.taps))}</pre>"

    @property
    def settings(self) -> Settings:
        """Of the run that trained it."""
        return self.experiment.settings

    @property
    def workdir(self) -> pathlib.Path:
        """The folder that it was loaded from."""
        return self.experiment.workdir

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
        self,
        images: Images | Num[Array, "n height width channels"],
        tap: str | Sequence[str] | None = None,
        noise_level: float | None = None,
        seed: int = 0,
        pooled: bool = True,
    ) -> Features | dict[str, Features]:
        """Features of clean images, of one noisy forward pass.

        Image i gets noise of (seed, i), whatever the batch size.

        Args:
          images: uint8, or floats in [-1, 1], NHWC. A denoiser of latents with its
            autoencoder takes images of any size, resized to `latents.image_shape` as
            Pillow does; what has the latents' own channels is taken as latents, scaled.
            Of a jax array the features are a jax array too, of one pass for all images:
            for `jax.jit` and `jax.grad` over the images; ranges are not checked.
          tap: one of `taps`; "out_1+out_2" is both, joined; a list gives each, by name.
            None: what the workdir's probe chose, or the middle one.
          noise_level: sigma/alpha of the noise to add, positive; 0.05 to 0.2 is usual.
            None: what the workdir's probe chose (the least, where it joined several),
            or 0.05.
          seed: of the noise.
          pooled: the means over positions, (n, features); else (n, positions,
            features).

        Raises:
          UserError: an argument is not as described.
        """
        default = cell.probed(self.experiment) or {}
        if tap is None:
            tap = default.get("tap", self.taps[len(self.taps) // 2])
        names = (tap,) if isinstance(tap, str) else tuple(tap)
        level = noise_level
        if level is None:
            level = default.get("noise_level", cell.NOISE_LEVEL)
        key = stream(seed, "model/features")
        time = self._time(level)
        found = features(
            self.trained, images, names, time, key, self.batch_size, pooled
        )
        return found[tap] if isinstance(tap, str) else found

    def apply_taps(
        self,
        params: dict,
        x0: Float[Array, "n height width channels"],
        noise: Float[Array, "n height width channels"],
        noise_level: float | Float[Array, ""] | Float[Array, "n"],
        taps: Sequence[str],
    ) -> dict[str, Array]:
        """Intermediate outputs as a pure function, for the caller's own jit and grad.

        XLA drops every layer after the deepest of them.

        Args:
          params: `self.params`, or what the caller has made of them.
          x0: clean images in [-1, 1], or scaled latents.
          noise: standard normal.
          noise_level: sigma/alpha, positive; one, or one of each image.
          taps: some of `self.taps`.

        Returns:
          tap -> what the layer gives: (n, height, width, channels) in UNets, (n,
          tokens, channels) in transformers.

        Raises:
          UserError: the network has no tap of that name.
        """
        process = self.denoiser.process
        times = process.time_at(jnp.broadcast_to(noise_level, len(x0)))
        x_t = process.add_noise(x0, noise, times)
        return self.denoiser.taps(params, x_t, times, tuple(taps))

    def probe(
        self,
        train: Labelled | None = None,
        test: Labelled | None = None,
        **fields: Any,
    ) -> ProbeResult:
        """Trains classifiers on frozen features over taps and noise levels.

        Args:
          train: (uint8 images, numbers or names of their classes); nothing is written
            then. Neither it nor test: the data set of the workdir, and the files of
            the task probe in it.
          test: the same of other images.
          fields: of config.probe, as in `classifier="logistic"`.

        Raises:
          UserError: one line that says what cannot be used.
        """
        if (train is None) != (test is None):
            raise UserError("probe: give both train and test, or neither")
        if train is None or test is None:
            return probe_workdir(self.experiment, fields)
        return probe_arrays(self.experiment, self.trained, train, test, fields)

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
        noisy = checked.checked(self.trained, "noisy", noisy, clean=False)
        time = self._time(noise_level)
        parts = [
            _denoised(self.denoiser, self.params, batch, time)
            for batch, _ in batches.placed(self.trained.mesh, noisy, self.batch_size)
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
        variables, mesh = self.trained.variables, self.trained.mesh
        split = parallel.batch_sharding(mesh)
        parts = [
            generate(
                generator,
                variables,
                key,
                parallel.place(indices, split),
                None if label is None else parallel.place(indices * 0 + label, split),
                split,
            )
            for indices in batches.pieces(mesh, n, min(self.batch_size, n))
        ]
        return np.concatenate(parallel.on_host(parts))[:n]

    def _time(self, noise_level: float) -> jax.Array:
        if not 0 < noise_level < np.inf:
            raise UserError(f"noise_level is {noise_level}; it must be positive")
        return self.denoiser.process.time_at(jnp.asarray([noise_level], jnp.float32))[0]


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
