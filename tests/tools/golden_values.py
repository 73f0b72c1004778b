"""Reads the golden files: what the published PyTorch code computes."""

import json
import pathlib

import numpy as np
import safetensors.numpy

from tests.golden import weights

FOLDER = pathlib.Path(__file__).parent.parent / "golden"


def load(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Returns the description and the arrays of golden file `name`."""
    meta = json.loads((FOLDER / f"{name}.json").read_text())
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return meta, dict(arrays)


def state(meta: dict) -> dict[str, np.ndarray]:
    """Returns the torch state dict that the golden outputs were computed with."""
    return weights.state_dict(meta["spec"], meta["seed"])


def nhwc(array: np.ndarray) -> np.ndarray:
    """Moves torch's channel axis to the end: (..., C, H, W) -> (..., H, W, C)."""
    return np.moveaxis(array, -3, -1)


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest deviation over the largest magnitude of the reference."""
    theirs = np.asarray(theirs, np.float64)
    difference = np.abs(np.asarray(ours, np.float64) - theirs)
    return float(difference.max() / np.abs(theirs).max())


def write_weights(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Writes the weights of a golden file as safetensors; returns the path."""
    path = folder / f"{name}.safetensors"
    safetensors.numpy.save_file(state(load(name)[0]), path)
    return path
