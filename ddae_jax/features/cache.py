"""`features.encode_set` through files: extracted once, read from then on."""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
import urllib.parse
from collections.abc import Callable, Sequence

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Float, PRNGKeyArray

from ddae_jax.data.source import Source
from ddae_jax.features import files as feature_files
from ddae_jax.features.encode import Encode, encode_batches
from ddae_jax.runtime import parallel

# Rows between two commits: what an interruption can cost.
BLOCK = 4096
# Images of a set that streams which enter its identity.
_SAMPLED = 64


@dataclasses.dataclass(frozen=True)
class FeatureCache:
    """Features of one network on disk.

    Attributes:
      folder: of all caches; each is a folder in it, with about.json.
      model: what makes the features: `model_identity`.
      step: of the checkpoint, for the folder's name.
    """

    folder: pathlib.Path
    model: str
    step: int


def model_identity(encoder: Encode, params: dict) -> str:
    """Hash of an encoder's description and of all its weights.

    Args:
      encoder: its repr says what it computes; which taps it gives does not matter.
    """
    digest = hashlib.sha256(re.sub(r"taps=\([^)]*\)", "", repr(encoder)).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.ascontiguousarray(parallel.on_host(leaf))
        about = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}"
        digest.update(about.encode())
        digest.update(array.view(np.uint8).reshape(-1))
    return digest.hexdigest()


def data_identity(source: Source) -> str:
    """Hash of a source: name, split, labels, and its images (64 of them, evenly chosen,
    where it is not in memory)."""
    about = (source.name, source.split, tuple(source.image_shape), len(source))
    digest = hashlib.sha256(repr(about).encode())
    digest.update(np.ascontiguousarray(source.labels))
    images = source.images
    if images is None:
        chosen = np.linspace(0, len(source) - 1, min(_SAMPLED, len(source)))
        images = source.read(chosen.astype(np.int64))
    digest.update(np.ascontiguousarray(images))
    return digest.hexdigest()


def encode_set(
    cache: FeatureCache,
    encoder_of: Callable[[tuple[str, ...]], Encode],
    taps: Sequence[str],
    params: dict,
    mesh: Mesh,
    source: Source,
    times: Sequence[float],
    key: PRNGKeyArray,
    batch_size: int,
    label: str,
) -> list[dict[str, Float[np.ndarray, "count features"]]]:
    """`features.encode_set`, memory-mapped; only what is missing is computed.

    One forward pass a batch and time gives all missing taps. An interrupted extraction
    continues behind its last whole block. Every byte that is used was checked. With
    several processes, process 0 writes and all read: they must share `cache.folder`.

    Args:
      encoder_of: taps -> encoder.
      times: the process's own.
      label: says what `key` stands for, such as "seed0_draw1", in the folder's name.

    Returns:
      for each time, tap -> float32 (len(source), features).
    """
    about = {
        "model": cache.model,
        "step": cache.step,
        "data": source.name,
        "split": source.split,
        "count": len(source),
        "images": data_identity(source),
        "noise": label,
        "noise_key": np.asarray(jax.random.key_data(key)).tolist(),
    }
    folder = cache.folder / _folder_name(about)
    names = [{tap: _file_name(tap, time) for tap in taps} for time in times]
    extract = functools.partial(
        _extract, folder, encoder_of, params, mesh, source, times, names, key
    )
    if jax.process_index() == 0:
        with feature_files.lock(folder):
            (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n")
            extract(batch_size)
    else:
        extract(batch_size)
    _wait_for_all(str(folder))
    return [
        {tap: feature_files.read(folder, name) for tap, name in at_time.items()}
        for at_time in names
    ]


def _extract(
    folder, encoder_of, params, mesh, source, times, names, key, batch_size
) -> None:
    """Computes what is missing. All processes take part; process 0 alone has files."""
    count = len(source)
    flat = [(i, tap) for i, at_time in enumerate(names) for tap in at_time]
    intact = {}
    if jax.process_index() == 0:
        intact = {
            (i, tap): feature_files.intact(folder, names[i][tap], count)
            for i, tap in flat
        }
    missing = [intact[cell][-1] < count for cell in intact] or [False] * len(flat)
    missing = [
        cell for cell, lacks in zip(flat, _from_first(missing), strict=True) if lacks
    ]
    if not missing:
        return
    common = set.intersection(*(set(intact.get(cell, [0])) for cell in missing))
    start = int(_from_first([max(common)])[0])
    at_times = [
        (i, tuple(tap for other, tap in missing if other == i))
        for i in dict.fromkeys(i for i, _ in missing)
    ]
    logging.info(
        "features of %s %s: %d of %d arrays, from image %d of %d",
        source.name,
        source.split,
        len(missing),
        len(flat),
        start,
        count,
    )
    encoders = [(encoder_of(taps), times[i]) for i, taps in at_times]
    batches = encode_batches(encoders, params, mesh, source, key, batch_size, start)
    if jax.process_index() != 0:
        for _ in batches:
            pass
        return
    writer = feature_files.Writer(folder, count, start)
    try:
        for _, outputs in batches:
            writer.append(
                {
                    names[i][tap]: rows
                    for (i, _), output in zip(at_times, outputs, strict=True)
                    for tap, rows in output.items()
                }
            )
            if writer.uncommitted >= BLOCK:
                writer.commit()
        writer.finish()
    finally:
        writer.close()


def _from_first(values: list) -> np.ndarray:
    """Process 0's values, on every process."""
    if jax.process_count() == 1:
        return np.asarray(values)
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(np.asarray(values))


def _wait_for_all(name: str) -> None:
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def _folder_name(about: dict) -> str:
    identity = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    words = (about["data"], about["split"], about["count"], about["noise"])
    readable = "_".join(re.sub(r"[^\w.-]", "-", str(word)) for word in words)
    return f"step{about['step']:08d}_{readable}_{identity[:12]}"


def _file_name(tap: str, time: float) -> str:
    return f"{urllib.parse.quote(tap, safe='')}_time{time:.9g}"
