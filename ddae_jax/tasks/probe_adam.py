"""DDAE's probe protocol: linear heads on features of augmented, noisy images."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from ddae_jax import parallel
from ddae_jax.data import augment, batches
from ddae_jax.data.source import Source
from ddae_jax.features import Encode, evaluation_inputs, example_noise, noise_shape
from ddae_jax.heads import linear

Images = Float[Array, "batch height width channels"]


@dataclasses.dataclass(frozen=True)
class AdamProbe:
    """The published protocol; each time costs one forward pass for all its heads.

    Cross-entropy, Adam, a cosine that falls once an epoch to 0, flips and crops, and
    fresh noise for every batch, of which all times see the same draw. Test images get
    noise too, but are not augmented.

    Attributes:
      encode: the features; nothing in it is trained.
      times: the process's own times.
      class_count: of the labels.
      epochs: passes over the training set.
      batch_size: over all devices, a multiple of their number.
      learning_rate: Adam's, for the whole batch.
      flip: mirror training images at random.
      crop: training images are shifted by up to this many pixels; 0 for none.
      threads: that decode training images which are not in memory.
    """

    encode: Encode
    times: tuple[float, ...]
    class_count: int
    epochs: int = 15
    batch_size: int = 512
    learning_rate: float = 4e-3
    flip: bool = True
    crop: int = 4
    threads: int = 8

    def fit(
        self,
        params: dict,
        mesh: Mesh,
        source: Source,
        held_out: Bool[np.ndarray, "count"],
        key: PRNGKeyArray,
        seed: int,
    ) -> tuple[linear.Heads, linear.Heads]:
        """Trains all heads twice, on the same features: without the held-out images,
        to choose by, and with them.

        Augmentation and noise of an image come from `key` and its place in the endless
        order of `seed`.

        Args:
          params: for `encode`, replicated over the mesh.
          source: is read batch by batch.
        """
        count = len(source)
        # Every image is seen `epochs` times at least: the last batch runs over.
        steps = -(-self.epochs * count // self.batch_size)
        optimizer = optax.adam(
            linear.cosine_per_epoch(
                self.learning_rate, self.epochs, self.batch_size, count
            )
        )
        sharding = parallel.batch_sharding(mesh)
        init_key, draw_key = jax.random.split(key)
        stream = batches.stream(
            source,
            batches.Order(seed, count),
            self.batch_size,
            shard_index=jax.process_index(),
            shard_count=jax.process_count(),
            threads=self.threads if source.images is None else 0,
        )
        # The second set of heads learns from every image.
        masks = (~held_out, np.ones_like(held_out))
        trained: list[list] | None = None
        for step in range(steps):
            images, labels, indices = next(stream)
            weights = [mask[indices].astype(np.float32) for mask in masks]
            images, labels, *weights = (
                jax.make_array_from_process_local_data(sharding, part)
                for part in (images, labels, *weights)
            )
            start, stop = step * self.batch_size, (step + 1) * self.batch_size
            positions = parallel.place(np.arange(start, stop, dtype=np.int32), sharding)
            shape = noise_shape(self.encode, images.shape[1:])
            x0, noise = training_inputs(
                images, positions, draw_key, self.flip, self.crop, shape
            )
            inputs = self._features(params, x0, noise)
            if trained is None:
                trained = [
                    list(self._create(optimizer, mesh, inputs, init_key)) for _ in masks
                ]
            for i, (heads, opt_state) in enumerate(trained):
                *trained[i], loss = linear.update(
                    optimizer, heads, opt_state, inputs, labels, weights[i]
                )
            if stop // count > start // count:
                mean = float(loss) / sum(len(at_time) for at_time in inputs)
                logging.info(
                    "probe: epoch %d of %d, loss %.4f",
                    stop // count,
                    self.epochs,
                    mean,
                )
        choosing, final = (heads for heads, _ in trained)
        return choosing, final

    def accuracies(
        self,
        heads: linear.Heads,
        params: dict,
        mesh: Mesh,
        source: Source,
        key: PRNGKeyArray,
    ) -> list[dict[str, float]]:
        """For each time, name of the features -> share of `source` in [0, 1]."""
        totals = None
        batch = evaluation_inputs(source, mesh, self.batch_size)
        for images, labels, indices, valid in batch:
            shape = noise_shape(self.encode, images.shape[1:])
            x0, noise = _test_inputs(images, indices, key, shape)
            inputs = self._features(params, x0, noise)
            correct = linear.count_correct(heads, inputs, labels, valid)
            totals = (
                correct if totals is None else jax.tree.map(jnp.add, totals, correct)
            )
        return jax.tree.map(
            lambda total: int(total) / len(source), parallel.on_host(totals)
        )

    def _features(self, params, x0, noise):
        return [
            _encode(self.encode, params, x0, noise, jnp.float32(time))
            for time in self.times
        ]

    def _create(self, optimizer, mesh, inputs, key):
        def init(key):
            heads = linear.init_heads(key, inputs, self.class_count)
            return heads, optimizer.init(heads)

        return jax.jit(init, out_shardings=parallel.replicated(mesh))(key)


# Small programs instead of one for a whole step: the forward pass, which is slow to
# compile, is the same for all times and for training and test.


@functools.partial(jax.jit, static_argnames=("flip", "crop", "shape"))
def training_inputs(
    images: UInt8[Array, "batch height width channels"],
    positions: Int[Array, "batch"],
    key: PRNGKeyArray,
    flip: bool,
    crop: int,
    shape: tuple[int, int, int] | None = None,
) -> tuple[Images, Images]:
    """Augmented images in [-1, 1], and noise: a function of key and position.

    The noise of one image has `shape`; None is the image's own.
    """
    flip_key, crop_key, noise_key = jax.random.split(key, 3)
    if flip:
        images = augment.random_flip(augment.example_keys(flip_key, positions), images)
    if crop:
        keys = augment.example_keys(crop_key, positions)
        images = augment.random_crop(keys, images, crop)
    noise = example_noise(noise_key, positions, shape or images.shape[1:])
    return augment.to_float(images), noise


@functools.partial(jax.jit, static_argnames="shape")
def _test_inputs(images, indices, key, shape):
    return augment.to_float(images), example_noise(key, indices, shape)


@functools.partial(jax.jit, static_argnames="encode")
def _encode(encode, params, x0, noise, time):
    return encode(params, x0, noise, time)
