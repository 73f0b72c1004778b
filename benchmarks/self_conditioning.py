"""What self-conditioning costs at every published size; writes it to docs/networks.md.

    python -m benchmarks.self_conditioning [--write=docs/networks.md]

Nothing is run: parameters are counted by shape, FLOPs in the program of one image's
forward pass, before the compiler changes it.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from absl import app

from benchmarks.golden_errors import write_or_print
from benchmarks.networks import NAMED
from ddae_jax.models.base import Network
from ddae_jax.models.self_conditioning import SelfConditioning
from ddae_jax.models.uvit import PRESETS, UViT
from ddae_jax.settings.source_search import DEFAULT

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


def _pair(name: str) -> Iterator[tuple[Network, tuple, dict]]:
    """The network as it is and self-conditioned, with inputs and parameter shapes."""
    network, image_shape = SIZES[name]
    inputs = jnp.zeros((1, *image_shape)), jnp.ones(1)
    for settings in (SelfConditioning(), SelfConditioning(DEFAULT)):
        one = network.clone(self_condition=settings)
        yield one, inputs, jax.eval_shape(one.init, jax.random.key(0), *inputs)


def parameters(name: str) -> list[int]:
    """Of `SIZES[name]` as it is, and with self-conditioning from the default source."""
    return [
        sum(leaf.size for leaf in jax.tree.leaves(variables))
        for *_, variables in _pair(name)
    ]


def flops(name: str) -> list[float]:
    """The same, of a forward pass on one image; nothing is compiled."""
    return [
        jax.jit(network.apply).lower(variables, *inputs).cost_analysis()["flops"]
        for network, inputs, variables in _pair(name)
    ]


def row(name: str) -> str:
    """The row of `SIZES[name]` in the table."""
    (plain, on), (work, more_work) = parameters(name), flops(name)
    return (
        f"| {name} | {SIZES[name][0].self_condition_default} | {plain:,} | "
        f"{on - plain:,} | {on / plain - 1:.2%} | {work / 1e9:.1f} | "
        f"{more_work / work - 1:.4%} |"
    )


def main(argv):
    """Prints the table, or writes it."""
    del argv
    rule = "|" + "---|" * (HEADER.count("|") - 1)
    write_or_print([HEADER, rule, *map(row, SIZES)])


if __name__ == "__main__":
    app.run(main)
