"""The user's file of Inception's weights: its hash, and its converted copy in a cache.

pytorch-fid publishes pt_inception-2015-12-05-6726825d.pth (Apache-2.0); as torch hub's
files, it carries the first digits of its own sha256 in its name.
"""

import dataclasses
import pathlib

import flax.traverse_util
import jax
import numpy as np
from absl import logging

from ddae_jax.errors import UserError
from ddae_jax.runtime import parallel, processes
from ddae_jax.runtime.identity import of_file
from ddae_jax.weights import folder, torch_files
from ddae_jax.weights.inception import params_from_torch

FILE_NAME = "pt_inception-2015-12-05-6726825d.pth"
HASH_PREFIX = "6726825d"
URL = (
    f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE_NAME}"
)


@dataclasses.dataclass(frozen=True)
class InceptionFile:
    """Inception's parameters and where they come from.

    Attributes:
      params: of models.inception.InceptionV3.
      sha256: of the file that they were converted from.
    """

    params: dict
    sha256: str

    @property
    def published(self) -> bool:
        """Whether these are pytorch-fid's weights, by their hash."""
        return self.sha256.startswith(HASH_PREFIX)


def load(path: str | pathlib.Path, cache: pathlib.Path) -> InceptionFile:
    """Returns the parameters of the file, converted on its first use.

    Args:
      path: of the file; "" takes the published weights that `cache` holds already.
      cache: folder of converted weights, one a hash.

    Raises:
      UserError: no such file (with where to get it), a hash that is not the one in the
        file's own name, or tensors that do not fit.
    """
    if not str(path):
        found = sorted(cache.glob(f"inception-{HASH_PREFIX}*/{folder.FILE}"))
        if not found:
            raise UserError(f"no file is given. {_where()}")
        return _read(found[0].parent)
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"there is no file {path}. {_where()}")
    sha256 = of_file(path)
    torch_files.check_named_hash(path, sha256, _where())
    if not sha256.startswith(HASH_PREFIX):
        logging.warning("%s is not the published file, which is %s", path, FILE_NAME)
    target = cache / f"inception-{sha256}"
    if parallel.all_processes((target / folder.FILE).is_file()):
        return _read(target)
    state = torch_files.state_dict(torch_files.read(path), "model")
    try:
        params = params_from_torch(state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error

    def write():
        target.mkdir(parents=True, exist_ok=True)
        folder.write_parameters(target, params)

    processes.on_first(write)
    return InceptionFile(jax.tree.map(np.array, params), sha256)


def _where() -> str:
    return f"Get {FILE_NAME} (sha256 begins {HASH_PREFIX}) from {URL}"


def _read(converted: pathlib.Path) -> InceptionFile:
    flat = folder.read_tensors(converted / folder.FILE)
    params = flax.traverse_util.unflatten_dict(flat, sep="/")
    return InceptionFile(params, converted.name.removeprefix("inception-"))
