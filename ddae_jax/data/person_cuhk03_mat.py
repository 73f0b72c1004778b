"""CUHK03 as it is published: cuhk-03.mat, to the files that `person_cuhk03` takes.

    python -m ddae_jax.data.person_cuhk03_mat cuhk-03.mat DIR

A MATLAB file of version 7.3 is HDF5: the extra `cuhk03` installs h5py. `labeled` and
`detected` refer to a table for each pair of cameras, of 10 images for each person: five
of view 1, five of view 2, some of them absent. `testsets` refers to 20 lists of pair
and person, counted from 1. DIR gets images_labeled, images_detected and the lists of
splits that name their files.
"""

import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from ddae_jax.errors import UserError
from ddae_jax.runtime import files

KINDS = ("labeled", "detected")
_DAMAGED = (AttributeError, OSError, RuntimeError, LookupError, ValueError, TypeError)
_MOST = 1 << 26  # values of an array: more is no table and no crop of a person


def extract(mat: pathlib.Path, target: pathlib.Path) -> Mapping[str, int]:
    """Writes the images as PNG, and the splits when all of them are there.

    Begun anew, it writes the same files again.

    Returns:
      the number of images of each kind.

    Raises:
      UserError: h5py is not installed, a file that is missing, damaged or not in this
        form, or a target that cannot be written.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError(
            "cuhk-03.mat is read with h5py: pip install ddae_jax[cuhk03]"
        ) from error
    try:
        with files.open_regular(mat) as stream, h5py.File(stream, "r") as content:
            tested = _test_sets(content)
            return {kind: _extract(content, kind, tested, target) for kind in KINDS}
    except UserError:
        raise
    except _DAMAGED as error:
        if files.disk_is_full(error):
            raise UserError(files.DISK_IS_FULL) from error
        raise UserError(
            f"{mat}: not read as cuhk-03.mat ({' '.join(str(error).split())})"
        ) from error


def _extract(
    content: Any, kind: str, tested: Sequence[set], target: pathlib.Path
) -> int:
    folder = target / f"images_{kind}"
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[tuple[int, int], list] = {}
    for (pair, person, number), pixels in _images(content, kind):
        view = 1 if number <= 5 else 2
        path = folder / f"{pair}_{person:03d}_{view}_{number:02d}.png"
        with files.replacing(path) as part:
            Image.fromarray(pixels).save(part, format="PNG")
        rows.setdefault((pair, person), []).append([path.name, person, view - 1])
    splits = []
    for test in tested:
        if not test <= rows.keys():
            pair, person = min(test - rows.keys())
            raise ValueError(
                f"testsets has person {person} of pair {pair}, {kind} does not"
            )
        train, gallery = (
            [row for key, own in rows.items() if (key in test) == part for row in own]
            for part in (False, True)
        )
        splits.append({"train": train, "query": gallery, "gallery": gallery})
    files.write_json(target / f"splits_classic_{kind}.json", splits)
    return sum(map(len, rows.values()))


def _images(
    content: Any, kind: str
) -> Iterator[tuple[tuple[int, int, int], UInt8[np.ndarray, "height width 3"]]]:
    """Pair, person and number of each image, from 1, and its pixels."""
    for pair, table in enumerate(_cells(content, kind), 1):
        people = _values(content[table])
        if people.ndim != 2 or len(people) != 10:
            raise ValueError(f"{kind}, pair {pair}: not 10 images for each person")
        for person, references in enumerate(people.T, 1):
            for number, reference in enumerate(references, 1):
                image = content[reference]
                if len(image.shape) != 3:  # MATLAB's empty array: no such image
                    continue
                if len(image) != 3 or image.dtype != np.uint8:
                    raise ValueError(
                        f"{kind}, pair {pair}, person {person}, image {number}: not RGB"
                    )
                # MATLAB's order of axes is the other way round.
                pixels = np.ascontiguousarray(_values(image).transpose(2, 1, 0))
                yield (pair, person, number), pixels


def _test_sets(content: Any) -> list[set[tuple[int, int]]]:
    sets = []
    for reference in _cells(content, "testsets"):
        rows = _values(content[reference])
        if rows.ndim != 2 or len(rows) != 2:
            raise ValueError("testsets: not lists of pair and person")
        sets.append({(int(pair), int(person)) for pair, person in rows.T})
    return sets


def _cells(content: Any, name: str) -> Shaped[np.ndarray, "cells"]:
    """The references of a MATLAB cell array of one row."""
    if name not in content:
        raise ValueError(f"it has no {name}")
    if content.get(name, getclass=True, getlink=True).__name__ != "HardLink":
        raise ValueError(f"{name} is in another file")
    cells = _values(content[name])
    if cells.ndim != 2 or len(cells) != 1:
        raise ValueError(f"{name}: not one row of cells")
    return cells[0]


def _values(dataset: Any) -> Shaped[np.ndarray, "..."]:
    """Of a bounded number, and in this file: HDF5 may name others."""
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{dataset.name}: its values are in another file")
    if dataset.size > _MOST:
        raise ValueError(f"{dataset.name}: has {dataset.size:,} values")
    return dataset[()]


def main(arguments: Sequence[str]) -> None:
    """The command line above."""
    if len(arguments) != 2:
        raise SystemExit(
            "usage: python -m ddae_jax.data.person_cuhk03_mat cuhk-03.mat DIR"
        )
    try:
        counts = extract(*map(pathlib.Path, arguments))
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        print("stopped: the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None
    for kind, count in counts.items():
        print(f"{arguments[1]}/images_{kind}: {count} images")


if __name__ == "__main__":
    main(sys.argv[1:])
