"""Draws images from a trained denoiser: a grid, samples.npz and, on request, PNGs."""

import pathlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from einops import rearrange
from jax.sharding import Mesh
from ml_collections import ConfigDict
from PIL import Image

from ddae_jax import compiler, log, parallel
from ddae_jax.data.augment import example_keys
from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion import SAMPLERS
from ddae_jax.tasks import common


def sampler_function(
    config: ConfigDict, denoiser: Denoiser, image_shape: tuple[int, int, int]
) -> Callable:
    """Returns the pure function (params, key, indices) -> uint8 images.

    Sample i depends on (key, i) alone.
    """
    options = dict(config.sampler)
    sampler = SAMPLERS[config.process.name][options.pop("name")]
    learned_variance = hasattr(denoiser.process, "x0_and_variance")

    def draw(params, key, indices):
        def denoise(x_t, time):
            output = denoiser.output(params, x_t, time)
            if learned_variance:
                return jnp.concatenate(
                    denoiser.process.x0_and_variance(output, x_t, time), axis=-1
                )
            return denoiser.process.x0(output, x_t, time)

        keys = example_keys(key, indices)

        def step_noise(step):
            return jax.vmap(
                lambda one: jax.random.normal(
                    jax.random.fold_in(one, step + 1), image_shape
                )
            )(keys)

        noise = step_noise(-1)
        x0 = sampler(denoise, denoiser.process, noise, step_noise, **options)
        return jnp.clip(jnp.round((x0 + 1) * 127.5), 0, 255).astype(jnp.uint8)

    return draw


def batches(
    config: ConfigDict,
    denoiser: Denoiser,
    params: dict,
    image_shape: tuple[int, int, int],
    mesh: Mesh,
    count: int,
) -> Iterator[np.ndarray]:
    """Yields samples 0 to `count` - 1 in batches of uint8 images."""
    size = config.sample.batch_size
    parallel.check_batch_size("config.sample.batch_size", size, mesh)
    draw = jax.jit(
        sampler_function(config, denoiser, image_shape),
        out_shardings=parallel.batch_sharding(mesh),
        compiler_options=compiler.options(),
    )
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    for start in range(0, count, size):
        indices = np.arange(start, start + size, dtype=np.int32)
        placed = parallel.place(indices, parallel.batch_sharding(mesh))
        yield parallel.on_host(draw(params, key, placed))[: count - start]


def grid_function(
    config: ConfigDict,
    denoiser: Denoiser,
    image_shape: tuple[int, int, int],
    mesh: Mesh,
) -> Callable[[dict], np.ndarray]:
    """Returns params -> grid of config.sample.grid samples, compiled once."""
    devices = mesh.size
    count = max(-(-config.sample.grid // devices), 1) * devices
    draw = jax.jit(
        sampler_function(config, denoiser, image_shape),
        out_shardings=parallel.replicated(mesh),
        compiler_options=compiler.options(),
    )
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    placed = parallel.place(
        np.arange(count, dtype=np.int32), parallel.batch_sharding(mesh)
    )
    return lambda params: make_grid(np.asarray(draw(params, key, placed)))


def make_grid(images: np.ndarray) -> np.ndarray:
    """Lays uint8 images (count, height, width, channels) out as one RGB picture."""
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    filled = np.zeros((rows * columns, *images.shape[1:]), np.uint8)
    filled[: len(images)] = images
    framed = np.pad(filled, ((0, 0), (1, 1), (1, 1), (0, 0)))
    grid = rearrange(framed, "(r c) h w ch -> (r h) (c w) ch", r=rows)
    return np.repeat(grid, 3, axis=-1) if grid.shape[-1] == 1 else grid


def write_png(path: pathlib.Path, image: np.ndarray) -> None:
    """Writes a uint8 (height, width, 1 or 3) image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path)


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Writes samples.npz (arr_0), samples.png and, if asked, samples/000000.png ..."""
    trained = common.restore_ema(config, workdir)
    count = config.sample.count
    progress = log.Progress("sample", count)
    parts, done = [], 0
    for images in batches(
        config,
        trained.denoiser,
        trained.params,
        trained.image_shape,
        trained.mesh,
        count,
    ):
        if jax.process_index() == 0 and config.sample.png_folder:
            for i, image in enumerate(images):
                write_png(workdir / "samples" / f"{done + i:06d}.png", image)
        parts.append(images)
        done += len(images)
        progress.report(done, "samples")
    progress.close()
    images = np.concatenate(parts)
    if jax.process_index() == 0:
        np.savez(workdir / "samples.npz", arr_0=images)
        grid = make_grid(images[: max(config.sample.grid, 1)])
        write_png(workdir / "samples.png", grid)
        logging.info("%d samples in %s", count, workdir / "samples.npz")
