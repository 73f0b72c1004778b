"""PyTorch's checkpoint files: read safely, and the one state dict in them picked."""

import argparse
import gc
import pathlib
import re
import zipfile
from collections.abc import Mapping

import numpy as np

from ddae_jax.errors import UserError
from ddae_jax.weights.published import own_names

WHICH = ("ema", "model")


def read(path: str | pathlib.Path) -> object:
    """Reads a file of torch.save; tensors become numpy arrays, mapped from the file.

    torch unpickles with `weights_only`: tensors, plain containers and argparse's inert
    Namespace (the options in DiT's training checkpoints), nothing else.

    Raises:
      UserError: torch is not installed; the file asks for anything else, which is
        named; it is corrupt or truncated.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path}: reading PyTorch's files needs torch: pip install ddae_jax[torch]"
        ) from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(
                path,
                map_location="cpu",
                weights_only=True,
                mmap=zipfile.is_zipfile(path),  # files before torch 1.6 cannot be
            )
    except Exception as error:  # a damaged file can raise anything
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            message = f"refused, the file asks for {refused[1]}"
        else:
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            message = f"corrupt or truncated, or no torch file ({reason})"
        raise UserError(f"{path}: {message}") from error
    gc.collect()  # torch's reader leaves a cycle that would hold the file for long
    return _to_numpy(content, torch)


def check_named_hash(path: pathlib.Path, sha256: str, where: str) -> None:
    """Checks the digits of its own hash that torch hub's files have in their names.

    Args:
      path: of any file; one without such digits passes.
      sha256: of its content.
      where: ends the message: where to get the file.

    Raises:
      UserError: the file is not the one that its name says.
    """
    named = re.search(r"-([0-9a-f]{8,64})\.pth$", path.name)
    if named and not sha256.startswith(named[1]):
        raise UserError(
            f"{path} has sha256 {sha256[:8]}..., not {named[1]}: "
            f"damaged or another file. {where}"
        )


def _to_numpy(value, torch):
    if isinstance(value, torch.Tensor):
        value = value.detach()
        if value.dtype == torch.bfloat16:  # numpy has no such type
            value = value.float()
        return value.numpy()
    if isinstance(value, Mapping):
        return {key: _to_numpy(item, torch) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_numpy(item, torch) for item in value]
    return value


def state_dict(content: object, which: str = "ema") -> dict[str, np.ndarray]:
    """Picks the network's tensors, under the network's own names.

    Known are a state dict itself; {"MODEL", "EMA"} of DDAE's training script, whose
    EMA is that of the ema_pytorch package; {"model", "ema"} of DiT and LightningDiT.

    Args:
      content: as `read` gives it.
      which: "ema" or "model": the averaged weights or those being trained, where the
        file has both.

    Raises:
      UserError: the file does not have what is asked for, or is of another form.
    """
    if not isinstance(content, Mapping) or not content:
        raise UserError(
            f"a torch file of {type(content).__name__}, not of named tensors"
        )
    by_lower = {str(key).lower(): key for key in content}
    if by_lower.keys() & set(WHICH):
        if which not in by_lower:
            known = " and ".join(name for name in WHICH if name in by_lower)
            raise UserError(
                f"the file has no {which} weights, only {known}: give weights"
            )
        content = content[by_lower[which]]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{which} is no state dict")
    alien = [
        str(key) for key, value in content.items() if not isinstance(value, np.ndarray)
    ]
    if alien:
        raise UserError(
            f"neither a state dict nor MODEL and EMA: {', '.join(alien[:8])} "
            "are no tensors"
        )
    return own_names(_averaged(content))


def _averaged(state):
    """The average in a state dict of ema_pytorch, or `state` itself."""
    prefix = "ema_model."
    if not any(name.startswith(prefix) for name in state):
        return state
    # online_model is the network being trained, the others count its updates.
    return {
        name.removeprefix(prefix): array
        for name, array in state.items()
        if name not in ("initted", "step") and not name.startswith("online_model.")
    }
