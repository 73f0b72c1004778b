"""What self-conditioning costs at every published size; writes it to docs/networks.md.

    python -m benchmarks.self_conditioning [--write=docs/networks.md]

Nothing is run: parameters are counted by shape, FLOPs in the program of one image's
forward pass, before the compiler changes it.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
from absl import app

from benchmarks.golden_errors import WRITE, replace_table
from benchmarks.networks import NAMED
from ddae_jax.models.base import Network
from ddae_jax.models.self_conditioning import DEFAULT, SelfConditioning
from ddae_jax.models.uvit import PRESETS, UViT

HEADER = "| network | source | parameters | more | share | GFLOPs | share of more |"
_LATENTS = (32, 32, 4)

SIZES: dict[str, tuple[Network, tuple[int, int, int]]] = {
    name: (named.network, named.image_shape)
    for name, named in NAMED.items()
    if named.process is not None
    and named.network.self_condition_taps()
    # Without a null class the network takes no call without labels; its size is S/2's.
    and name != "uvit-s2-classes"
} | {
    f"uvit-{size.lower()}2": (UViT(**PRESETS[f"U-ViT-{size}/2"]), _LATENTS)
    for size in ("M", "L", "H")
}
"""Name -> a network of a published size, and the shape of what it takes."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one network: its parameters, and the FLOPs of a forward pass on one image."""

    parameters: int
    flops: float


def cost(network: Network, image_shape: tuple[int, int, int]) -> Cost:
    """Counts; nothing is computed or compiled."""
    inputs = jnp.zeros((1, *image_shape)), jnp.ones(1)
    variables = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    lowered = jax.jit(network.apply).lower(variables, *inputs)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables))
    return Cost(parameters, lowered.cost_analysis()["flops"])


def costs(name: str) -> tuple[Cost, Cost]:
    """Of `SIZES[name]` as it is, and with self-conditioning from the default source."""
    network, image_shape = SIZES[name]
    on = network.clone(self_condition=SelfConditioning(DEFAULT))
    return cost(network, image_shape), cost(on, image_shape)


def row(name: str) -> str:
    """The row of `SIZES[name]` in the table."""
    plain, on = costs(name)
    more = on.parameters - plain.parameters
    return (
        f"| {name} | {SIZES[name][0].self_condition_default} | {plain.parameters:,} | "
        f"{more:,} | {more / plain.parameters:.2%} | {plain.flops / 1e9:.1f} | "
        f"{(on.flops - plain.flops) / plain.flops:.4%} |"
    )


def main(argv):
    """Prints the table, or writes it."""
    del argv
    rows = [HEADER, "|" + "---|" * (HEADER.count("|") - 1), *map(row, SIZES)]
    if WRITE.value:
        path = pathlib.Path(WRITE.value)
        path.write_text(replace_table(path.read_text(), rows))
    else:
        print("\n".join(rows))


if __name__ == "__main__":
    app.run(main)
