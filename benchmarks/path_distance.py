"""The path distance of all pairs of images, beside a plain PyTorch version.

    python -m benchmarks.path_distance

1,000 x 1,000 images with 8 stripes of 128 by default, turn by turn in one process. The
PyTorch side is the recurrence as one writes it down: all stripe distances, then a sum
and a minimum a stripe, over all pairs at once.
"""

import argparse
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import timing
from ddae_jax.metrics.path_distance import path_distances


def plain(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Zhang et al. 2017, eq. 1 and 2, of [n, h, c] and [m, h, c]: [n, m]."""
    rows = first.shape[1]
    x, y = first.flatten(0, 1), second.flatten(0, 1)
    squares = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
    flat = torch.tanh(squares.clamp(min=1e-12).sqrt() / 2)
    cells = flat.reshape(len(first), rows, len(second), rows).permute(1, 3, 0, 2)
    sums = {}
    for i in range(rows):
        for j in range(rows):
            before = [sums[key] for key in ((i - 1, j), (i, j - 1)) if key in sums]
            best = torch.minimum(*before) if len(before) == 2 else sum(before)
            sums[i, j] = cells[i, j] + best
    return sums[rows - 1, rows - 1]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000, help="on each side")
    parser.add_argument("--stripes", type=int, default=8)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    shape = arguments.images, arguments.stripes, arguments.width
    rng = np.random.default_rng(0)
    # After a ReLU, as stripes are.
    sides = np.maximum(rng.normal(0, 0.3, (2, *shape)), 0).astype(np.float32)
    ours = jax.jit(path_distances)
    given = list(map(jnp.asarray, sides))
    tensors = list(map(torch.from_numpy, sides))
    torch.set_num_threads(os.cpu_count())

    def run_plain():
        with torch.no_grad():
            return plain(*tensors).numpy()

    difference = np.abs(np.asarray(ours(*given)) - run_plain()).max()
    seconds = timing.alternate(
        {"ours": lambda: ours(*given).block_until_ready(), "pytorch": run_plain},
        arguments.rounds,
    )
    result = timing.summarise(seconds, arguments.images**2)
    low, high = result["pytorch"]["ratio_quartiles"]
    print(
        f"ours {np.median(seconds['ours']):.3f} s, PyTorch "
        f"{np.median(seconds['pytorch']):.3f} s: {result['pytorch']['ratio']:.2f} "
        f"times as long ({low:.2f} to {high:.2f}), {arguments.rounds} rounds"
    )
    versions = {"jax": jax.__version__, "torch": torch.__version__}
    print(
        json.dumps(
            {
                **vars(arguments),
                **versions,
                "device": jax.devices()[0].device_kind,
                "cores": os.cpu_count(),
                "seconds": seconds,
                "ratio": result["pytorch"]["ratio"],
                "ratio_quartiles": [low, high],
                "largest_difference": float(difference),
            }
        )
    )


if __name__ == "__main__":
    main()
