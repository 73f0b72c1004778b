"""Image sets without classes: a folder of image files, or arr_0 of an .npz file.

Images are read when they are asked for: memory does not depend on their number.
"""

import concurrent.futures
import pathlib
import threading
import zipfile
from collections.abc import Sequence

import numpy as np

from ddae_jax.data import images as image_ops
from ddae_jax.data.image_folder import image_files
from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.runtime import files


def open_folder(
    path: str | pathlib.Path, channels: int | None = None, threads: int = 8
) -> Source:
    """Returns the images below a folder, at any depth, in the order of their names.

    Args:
      channels: 1 or 3 converts to grey or RGB; None takes what the first image has.
      threads: that decode.

    Raises:
      UserError: no folder, no images in it, or images of several sizes.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder")
    paths = image_files(path)
    if not paths:
        raise UserError(f"{path}: a folder without images")
    shape = image_ops.decode(paths[0], str(paths[0]), channels=channels).shape
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for file, size in zip(
            paths, pool.map(image_ops.header_size, paths), strict=True
        ):
            if size != shape[:2]:
                raise UserError(_difference(file, (*size, shape[2]), paths[0], shape))

    def decode(index):
        file = paths[index]
        image = image_ops.decode(file, str(file), channels=channels)
        if image.shape != shape:
            raise UserError(_difference(file, image.shape, paths[0], shape))
        return image

    def reader(indices):
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            return np.stack(list(pool.map(decode, indices)))

    return _source(path, len(paths), shape, reader)


def open_npz(path: str | pathlib.Path) -> Source:
    """Returns arr_0 of a file as --task=sample and ADM write it, uint8 NHWC.

    Raises:
      UserError: no such file, or it has no such images.
    """
    path = pathlib.Path(path)
    try:
        files.check_regular(path)
        archive = zipfile.ZipFile(path)
        stream = archive.open("arr_0.npy")
        version = np.lib.format.read_magic(stream)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = header(stream)
        start = stream.tell()
    except UserError:
        raise
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: no .npz file with images arr_0 ({reason})") from error
    if dtype != np.uint8 or fortran or len(shape) != 4 or not all(shape):
        raise UserError(f"{path}: arr_0 is {dtype}{shape}, not uint8 NHWC images")
    size = int(np.prod(shape[1:]))
    lock = threading.Lock()

    def read_one(index):
        stream.seek(start + index * size)
        content = stream.read(size)
        if len(content) != size:
            raise UserError(f"{path}: truncated at image {index}")
        return np.frombuffer(content, np.uint8).reshape(shape[1:])

    def reader(indices):
        # Each once and in order: a last batch is filled up with its last image, and
        # going back by one would read a compressed file from its beginning.
        wanted, places = np.unique(indices, return_inverse=True)
        with lock:
            try:
                return np.stack([read_one(int(index)) for index in wanted])[places]
            except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
                if isinstance(error, UserError):
                    raise
                raise UserError(f"{path}: damaged .npz file ({error})") from error

    return _source(path, shape[0], shape[1:], reader)


def _source(path: pathlib.Path, count: int, shape: Sequence[int], reader) -> Source:
    labels = np.zeros(count, np.int32)
    return Source(str(path), "all", labels, ("image",), tuple(shape), reader, None)


def _difference(path, shape, first, first_shape) -> str:
    def words(shape):
        return f"{shape[0]}x{shape[1]}, {shape[2]} channel(s)"

    return (
        f"{path}: {words(shape)}, but {first} is {words(first_shape)}; the images of a "
        "set must be of one size and kind"
    )
