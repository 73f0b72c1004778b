"""The torch tensors that golden/inception_fid was computed with."""

import numpy as np

from tests.golden import weights


def inception_state(meta: dict) -> dict[str, np.ndarray]:
    """Applies the file's own rule for its weights."""
    state = {}
    for name, shape in meta["spec"].items():
        tensor = weights.tensor(name, shape, meta["seed"])
        if tensor.ndim >= 2:
            tensor = tensor * np.float32(np.sqrt(2))
        if name.endswith("running_var"):
            tensor = 1 + np.abs(tensor)
        state[name] = tensor
    return state
