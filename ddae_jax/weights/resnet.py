"""ResNet's weights: tensor names of torchvision's state dicts, and the user's file.

torchvision publishes resnet50-0676ba61.pth and resnet50-11ad3fa6.pth (BSD-3-Clause), of
two recipes on ImageNet, at https://download.pytorch.org/models/. Any file of the same
names will do, with or without the classifier.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ddae_jax.errors import UserError
from ddae_jax.models.resnet import ResNet
from ddae_jax.runtime.identity import of_file
from ddae_jax.weights import folder, torch_files, torch_layout
from ddae_jax.weights.published import own_names
from ddae_jax.weights.torch_layout import Entry, norm

_WHERE = (
    "Get resnet50-0676ba61.pth or resnet50-11ad3fa6.pth from "
    "https://download.pytorch.org/models/"
)
_CLASSIFIER = ("fc.weight", "fc.bias")


@dataclasses.dataclass(frozen=True)
class ResNetFile:
    """What a file holds.

    Attributes:
      variables: "params" and "batch_stats" of models.resnet.ResNet.
      sha256: of the file.
    """

    variables: dict
    sha256: str


def names(network: ResNet) -> dict[str, Entry]:
    """Maps torchvision's tensor names, but the classifier's, to our variables.

    The paths begin with the collection, "params" or "batch_stats".
    """
    entries = _conv_and_norm("conv1", "bn1", ("stem",), ("stem_norm",))
    for stage, count in enumerate(network.blocks, 1):
        for number in range(count):
            theirs, ours = f"layer{stage}.{number}", f"stage{stage}_{number}"
            for i in (1, 2, 3):
                entries |= _conv_and_norm(
                    f"{theirs}.conv{i}",
                    f"{theirs}.bn{i}",
                    (ours, f"conv{i}"),
                    (ours, f"norm{i}"),
                )
            if number == 0:
                entries |= _conv_and_norm(
                    f"{theirs}.downsample.0",
                    f"{theirs}.downsample.1",
                    (ours, "shortcut"),
                    (ours, "shortcut_norm"),
                )
    return entries


def _conv_and_norm(
    conv_name: str, norm_name: str, conv_path: tuple, norm_path: tuple
) -> dict[str, Entry]:
    statistics = ("batch_stats", *norm_path)
    return {
        f"{conv_name}.weight": Entry(("params", *conv_path, "kernel"), "conv"),
        **norm(norm_name, ("params", *norm_path)),
        f"{norm_name}.running_mean": Entry((*statistics, "mean")),
        f"{norm_name}.running_var": Entry((*statistics, "variance")),
    }


def variables_from_torch(network: ResNet, state: Mapping[str, np.ndarray]) -> dict:
    """Returns the variables of `network` that torchvision's tensors make.

    The classifier and the counters of training steps are left out.

    Args:
      state: torch name -> array in torch's layout.

    Raises:
      UserError: a tensor is missing, surplus or of another shape; all are listed.
    """
    kept = {
        name: array
        for name, array in own_names(state).items()
        if name not in _CLASSIFIER and not name.endswith(".num_batches_tracked")
    }
    init = functools.partial(network.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    return torch_layout.from_torch(kept, names(network), shapes)


def classifier_from_torch(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns torchvision's classifier as a linear head, {"kernel", "bias"}.

    Raises:
      UserError: a tensor of it is missing.
    """
    state = own_names(state)
    missing = [name for name in _CLASSIFIER if name not in state]
    if missing:
        raise UserError(f"the tensors have no classifier: {', '.join(missing)} missing")
    kernel = torch_layout.LAYOUTS["linear"].from_torch(np.asarray(state["fc.weight"]))
    return {"kernel": kernel, "bias": np.asarray(state["fc.bias"])}


def load(path: str | pathlib.Path, network: ResNet) -> ResNetFile:
    """Reads the variables of `network` from a .pth or .safetensors file.

    Raises:
      UserError: no such file (with where to get it), a hash that is not the one in the
        file's own name, a file that cannot be read, or tensors that do not fit.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"there is no file {path}. {_WHERE}")
    sha256 = of_file(path)
    torch_files.check_named_hash(path, sha256, _WHERE)
    if path.suffix == ".safetensors":
        state = folder.read_tensors(path)
    else:
        state = torch_files.state_dict(torch_files.read(path), "model")
    try:
        variables = variables_from_torch(network, state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return ResNetFile(jax.tree.map(np.array, variables), sha256)  # no map of the file
