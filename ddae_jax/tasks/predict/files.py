"""What `predict` writes while it goes: predictions.csv and features.npz."""

import contextlib
import csv
import pathlib
import zipfile
from collections.abc import Iterator, Sequence
from typing import IO, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from ddae_jax.runtime.files import replacing

PREDICTIONS, FEATURES = "predictions.csv", "features.npz"


@runtime_checkable
class Rows(Protocol):
    """Takes what is known of some more files."""

    def __call__(self, rows: np.ndarray) -> None: ...


@contextlib.contextmanager
def predictions(
    workdir: pathlib.Path, files: Sequence[str], class_names: Sequence[str]
) -> Iterator[Rows]:
    """Opens predictions.csv: file, class, probability, then one column a class.

    What it gives takes probabilities (batch, classes), in the order of `files`. The
    file appears when all are written.
    """
    with (
        replacing(workdir / PREDICTIONS) as part,
        part.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("file", "class", "probability", *class_names))
        names = iter(files)

        def add(probabilities: Float[np.ndarray, "batch classes"]) -> None:
            for row in probabilities:
                best = int(row.argmax())
                values = (f"{value:.6g}" for value in (row[best], *row))
                writer.writerow((next(names), class_names[best], *values))

        yield add


@contextlib.contextmanager
def features(
    workdir: pathlib.Path, count: int, facts: dict[str, np.ndarray]
) -> Iterator[Rows]:
    """Opens features.npz: `features` float32 (count, width), and `facts`.

    What it gives takes features (batch, width). They go to disk at once, so that
    memory does not grow with their number. The file appears when all are written.
    """
    with (
        replacing(workdir / FEATURES) as part,
        zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name, value in facts.items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, np.asarray(value), allow_pickle=False)
        with archive.open("features.npy", "w", force_zip64=True) as stream:
            started = False

            def add(rows: Float[np.ndarray, "batch width"]) -> None:
                nonlocal started
                if not started:
                    _write_header(stream, (count, rows.shape[1]))
                    started = True
                stream.write(np.ascontiguousarray(rows, "<f4").tobytes())

            yield add


def _write_header(stream: IO[bytes], shape: tuple[int, int]) -> None:
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
