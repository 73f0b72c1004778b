"""Inception-v3's weights from pytorch-fid's pt_inception-2015-12-05-6726825d.pth."""

from collections.abc import Mapping

import numpy as np

from ddae_jax.errors import UserError
from ddae_jax.models import inception

EPSILON = 1e-3
_NORM = ("weight", "bias", "running_mean", "running_var")


def _shapes() -> dict[str, tuple[int, ...]]:
    """Shape of every torch tensor of the network."""
    shapes = {
        "fc.weight": (inception.CLASSES, inception.FEATURES),
        "fc.bias": (inception.CLASSES,),
    }

    def add(name, conv, channels):
        shapes[f"{name}.conv.weight"] = (
            conv.features,
            channels,
            conv.height,
            conv.width,
        )
        for part in _NORM:
            shapes[f"{name}.bn.{part}"] = (conv.features,)

    channels = 3
    for conv in inception.STEM:
        add(conv.name, conv, channels)
        channels = conv.features
    for block_name, block in inception.BLOCKS.items():
        outputs = 0
        for branch in block.branches:
            width = channels
            for step in branch:
                for conv in step:
                    add(f"{block_name}.{conv.name}", conv, width)
                width = step[0].features
            outputs += sum(conv.features for conv in branch[-1])
        if block.pool_features:
            conv = inception.Conv("branch_pool", block.pool_features)
            add(f"{block_name}.branch_pool", conv, channels)
        outputs += block.pool_features or channels
        channels = outputs
    return shapes


def _check(state: Mapping[str, np.ndarray]) -> None:
    wanted = _shapes()
    # Counters of training steps, which newer torch versions add to the file.
    surplus = [
        name
        for name in state
        if name not in wanted and not name.endswith(".bn.num_batches_tracked")
    ]
    problems = {
        "missing": [name for name in wanted if name not in state],
        "surplus": surplus,
        "misshapen": [
            f"{name} {tuple(state[name].shape)}, not {shape}"
            for name, shape in wanted.items()
            if name in state and tuple(state[name].shape) != shape
        ],
    }
    found = [f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names]
    if found:
        raise UserError(f"tensors do not fit Inception-v3; {'; '.join(found)}")


def _folded(
    state: Mapping[str, np.ndarray], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel (HWIO) and bias of a convolution with its batch normalisation."""
    scale, shift, mean, variance = (
        np.asarray(state[f"{name}.bn.{part}"], np.float64) for part in _NORM
    )
    factor = scale / np.sqrt(variance + EPSILON)
    kernel = np.asarray(state[f"{name}.conv.weight"], np.float64)
    kernel = kernel.transpose(2, 3, 1, 0) * factor
    return kernel.astype(np.float32), (shift - mean * factor).astype(np.float32)


def params_from_torch(state: Mapping[str, np.ndarray]) -> dict:
    """Returns the parameters of `InceptionV3` that the torch tensors make.

    Batch normalisation is folded in float64, and the 1x1 convolutions of a block that
    read the same input are joined, so there is no way back to the torch tensors.

    Args:
      state: torch name -> array in torch's layout, of pytorch-fid's file.

    Raises:
      UserError: a tensor is missing, surplus or of another shape; all are listed.
    """
    _check(state)
    params = {
        "fc_kernel": np.ascontiguousarray(np.transpose(state["fc.weight"])),
        "fc_bias": np.asarray(state["fc.bias"]),
    }

    def layer(name):
        kernel, bias = _folded(state, name)
        return {"kernel": kernel, "bias": bias}

    for conv in inception.STEM:
        params[conv.name] = layer(conv.name)
    for block_name, block in inception.BLOCKS.items():
        joined = [conv.name for conv in block.pointwise]
        separate = [
            conv.name
            for branch in block.branches
            for step in branch
            for conv in step
            if conv.name not in joined
        ]
        if block.pool == "max":
            separate.append("branch_pool")
        params[block_name] = {name: layer(f"{block_name}.{name}") for name in separate}
        if joined:
            parts = [_folded(state, f"{block_name}.{name}") for name in joined]
            kernels, biases = zip(*parts, strict=True)
            params[block_name]["pointwise"] = {
                "kernel": np.concatenate([k[0, 0] for k in kernels], axis=-1),
                "bias": np.concatenate(biases),
            }
    return params
