"""Published statistics files of FID: pytorch-fid, EDM and ADM `.npz`, EDM2 `.pkl`."""

import os
import pathlib
import zipfile

import numpy as np

from ddae_jax.errors import UserError
from ddae_jax.metrics.frechet import Statistics
from ddae_jax.runtime import files
from ddae_jax.runtime.safe_pickle import safe_unpickle


def read_statistics(path: str | os.PathLike, metric: str = "fid") -> Statistics:
    """Reads the Gaussian fit of a reference set.

    Args:
      path: `.npz` with mu and sigma (and count, if known), or EDM2's `.pkl` with
        {metric: {mu, sigma}}. Nothing in the file is ever run.
      metric: of EDM2's file: "fid" or "fd_dinov2".

    Raises:
      FileNotFoundError: there is no such file.
      UserError: the file is not one of these, or its values cannot be statistics.
    """
    path = pathlib.Path(path)
    if path.suffix == ".pkl":
        entries = safe_unpickle(_content(path), str(path))
        if not isinstance(entries, dict):
            raise UserError(f"{path}: not statistics, the pickle is no dict")
        if not isinstance(entries.get(metric), dict):
            known = ", ".join(sorted(map(str, entries)))
            raise UserError(f"{path}: has no metric {metric!r}; it has: {known}")
        entries = entries[metric]
    else:
        entries = _read_npz(path, ("mu", "sigma", "count"))
    for name in ("mu", "sigma"):
        if name not in entries:
            raise UserError(f"{path}: not FID statistics, {name} is missing")
    mean, covariance = (
        np.asarray(entries[name], np.float64) for name in ("mu", "sigma")
    )
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape:
        raise UserError(f"{path}: mu {mean.shape} and sigma {covariance.shape} differ")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"{path}: mu or sigma has a value that is not finite")
    count = int(entries["count"]) if "count" in entries else None
    return Statistics(count, mean, covariance)


def _content(path: pathlib.Path) -> bytes:
    try:
        return files.read_regular(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: there is no such file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _read_npz(path: pathlib.Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    try:
        files.check_regular(path)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names if name in arrays}
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: there is no such file") from error
    except UserError:
        raise
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: no readable .npz file ({reason})") from error
