"""Encodes a data set with the autoencoder, for pre-training on its latents.

The files go on where an interruption left them; data/latents.py says what they are.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from ddae_jax.data import latents as latents_data
from ddae_jax.data import source as data_source
from ddae_jax.data.augment import to_float
from ddae_jax.data.identity import of_source
from ddae_jax.data.latents import Encoded
from ddae_jax.data.source import Source
from ddae_jax.data.sources import SPLITS
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment, autoencoder
from ddae_jax.features.encode import evaluation_inputs
from ddae_jax.features.latents import Latents
from ddae_jax.runtime import compiler, identity, log, parallel, processes


def run(experiment: Experiment) -> None:
    """Writes the latents of both splits of config.data to config.encode.folder.

    Raises:
      UserError: there is no autoencoder; it cannot take the images; or the folder holds
        something else.
    """
    settings = experiment.settings.encode
    folder = pathlib.Path(settings.folder or experiment.workdir / latents_data.NAME)
    mesh = experiment.mesh
    parallel.check_batch_size("config.encode.batch_size", settings.batch_size, mesh)
    sources = {split: experiment.source(split) for split in SPLITS}
    if not sources["train"].form.are_images:
        raise UserError("config.data.name: these are latents already; name images")
    latents, params = _autoencoder(experiment, sources["train"])
    encoded = _begun(experiment, folder, sources, latents, params)
    params = jax.device_put(params, parallel.replicated(mesh))
    for split, source in sources.items():
        _write_split(experiment, folder, encoded, source, split, latents, params)

    def finish():
        finished = _normalised(encoded, folder, settings.normalise, latents.scale)
        latents_data.write(folder, finished)

    processes.on_first(finish)
    logging.info(
        "latents of %d images, %s, in %s",
        *(sum(encoded.counts.values()), "x".join(map(str, encoded.shape)), folder),
    )


def _autoencoder(experiment: Experiment, source: Source) -> tuple[Latents, dict]:
    section = experiment.settings.autoencoder
    path = autoencoder.find(section, experiment.workdir)
    if path is None:
        raise UserError(autoencoder.MISSING.format(channels="several"))
    dtype = experiment.settings.dtype
    network = autoencoder.read_network(path, dtype)
    factor = 2 ** (len(network.widths) - 1)
    height, width, channels = source.image_shape
    if channels != network.image_channels:
        raise UserError(
            f"config.data.channels: the autoencoder takes {network.image_channels}, "
            f"images of {source.name} have {channels}"
        )
    if height % factor or width % factor:
        raise UserError(
            f"config.data.image_size: the autoencoder halves images of {source.name}, "
            f"{height}x{width}, to 1/{factor}; give a multiple of it"
        )
    shape = height // factor, width // factor, network.latent_channels
    return autoencoder.load(section, dtype, path, shape)


def _begun(
    experiment: Experiment,
    folder: pathlib.Path,
    sources: dict[str, Source],
    latents: Latents,
    params: dict,
) -> Encoded:
    """What the folder is to hold, written there where nothing was.

    Raises:
      UserError: the folder holds something else.
    """
    settings = experiment.settings.encode
    made_by = autoencoder.identity_of(latents.autoencoder, params)
    train = sources["train"]
    encoded = Encoded(
        identity.of(
            autoencoder=made_by,
            images={split: of_source(source) for split, source in sources.items()},
            dtype=experiment.settings.dtype,
            stored=settings.dtype,
            mirrored=settings.mirrored,
            file_images=settings.file_images,
        ),
        made_by,
        train.name,
        train.class_names,
        train.image_shape,
        latents.shape,
        settings.mirrored,
        settings.dtype,
        settings.file_images,
        {split: len(source) for split, source in sources.items()},
    )
    processes.on_first(lambda: _begin(folder, encoded, sources))
    return encoded


def _begin(folder: pathlib.Path, encoded: Encoded, sources: dict[str, Source]) -> None:
    found = latents_data.read(folder)
    there = found is not None or (folder.is_dir() and any(folder.iterdir()))
    if there and (found is None or found.identity != encoded.identity):
        raise UserError(
            f"config.encode.folder: {folder} holds something else than these latents; "
            "name another folder, or remove it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    latents_data.write(folder, encoded)
    for split, source in sources.items():
        labels = np.asarray(source.labels, np.int32)
        latents_data.write_array(folder / f"{split}_labels.npy", labels)


def _write_split(
    experiment: Experiment,
    folder: pathlib.Path,
    encoded: Encoded,
    source: Source,
    split: str,
    latents: Latents,
    params: dict,
) -> None:
    """Writes the files of one split that are not there yet."""
    progress = log.Progress(f"encode {split}", len(source))
    size = experiment.settings.encode.batch_size
    for start in encoded.starts(split):
        path = encoded.path(folder, split, start)
        is_whole = functools.partial(_is_whole, encoded, folder, split, start)
        if processes.on_first(is_whole):
            continue
        stop = min(start + encoded.file_images, len(source))
        part = data_source.subset(source, np.arange(start, stop))
        found = []
        for images, *_ in evaluation_inputs(part, experiment.mesh, size):
            moments = _moments(latents, params, images, encoded.mirrored)
            with np.errstate(over="ignore"):  # it is said below
                found.append(parallel.on_host(moments).astype(encoded.dtype))
            progress.tick(start + len(found) * size, "images")
        rows = np.concatenate(found)[: stop - start]
        if not np.isfinite(rows).all():
            raise UserError(
                f"config.encode.dtype: moments of images {start} to {stop - 1} of "
                f"{split} are not finite in {encoded.dtype}"
            )
        write = functools.partial(latents_data.write_array, path, rows)
        processes.on_first(write)
    progress.close()


def _is_whole(encoded: Encoded, folder: pathlib.Path, split: str, start: int) -> bool:
    try:
        encoded.rows(folder, split, start)
    except UserError:
        return False
    return True


def _normalised(
    encoded: Encoded, folder: pathlib.Path, how: str, scale: float
) -> Encoded:
    """Finished: with the scale, and the shift, that training multiplies with."""
    if how == "scale":
        return dataclasses.replace(encoded, scale=scale)
    mean, std = latents_data.statistics(encoded, folder)
    if not std.all():
        raise UserError("config.encode.normalise: a channel of the latents is constant")
    return dataclasses.replace(
        encoded, scale=tuple((1 / std).tolist()), shift=tuple(mean.tolist())
    )


@compiler.jit(static_argnames=("latents", "mirrored"))
def _moments(latents, params, images, mirrored):
    """(batch, copies, rows, columns, twice the channels)."""
    x0 = to_float(images)
    copies = (x0, x0[:, :, ::-1]) if mirrored else (x0,)
    return jnp.stack([latents.moments(params, copy) for copy in copies], axis=1)
