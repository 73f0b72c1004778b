"""How far every network is from its golden file; writes the table of docs/networks.md.

    python -m benchmarks.golden_errors [--write=docs/networks.md]

An error is the largest difference over the largest magnitude of what the published
PyTorch code gives, over the outputs and all taps of a golden file, in float32.
"""

import pathlib
from collections.abc import Mapping

import flax.linen as nn
import jax
import numpy as np
from absl import app, flags

from benchmarks.networks import NAMED, Named
from ddae_jax.weights import families, torch_layout
from tests.tools import golden_values

WRITE = flags.DEFINE_string("write", None, "File whose table is brought up to date.")

HEADER = "| network | parameters | golden file | largest error | import family |"

# The compiler's optimiser takes longer than the small networks run.
_UNOPTIMIZED = {"xla_backend_optimization_level": 0}
Arrays = Mapping[str, np.ndarray]


def error_of(named: Named) -> float:
    """Compares the network of the golden file of `named` with it."""
    meta, arrays = golden_values.load(named.golden)
    arrays = {
        key: golden_values.nhwc(array) if array.ndim == 4 else array
        for key, array in arrays.items()
    }
    state = golden_values.state(meta)
    family = families.FAMILIES[named.family]
    network = families.network_of(named.family, state, dict(named.asks))
    inputs = _inputs(arrays)
    if named.family == "vae":
        inputs = inputs[:1]
    init = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    params = torch_layout.from_torch(
        family.clean(state, network), family.names(network), init["params"]
    )
    compare = _autoencoder if named.family == "vae" else _denoiser
    pairs = compare(network, {"params": params}, inputs, arrays)
    return max(golden_values.relative_error(*pair) for pair in pairs)


def _inputs(arrays: Arrays) -> tuple:
    """Images, time, labels, augmentation labels, as far as the file has them."""
    images, time = arrays["in/x"], arrays.get("in/t")
    if "in/sigma" in arrays:
        time = np.log(arrays["in/sigma"]) / 4
    return images, time, arrays.get("in/y"), arrays.get("in/aug")


def _denoiser(network: nn.Module, variables: dict, inputs: tuple, arrays: Arrays):
    paths = network.tap_paths()
    wanted = set(paths.values())

    def apply(variables, inputs):
        return network.apply(
            variables,
            *inputs,
            capture_intermediates=lambda module, _: "/".join(module.path) in wanted,
            mutable=["intermediates"],
        )

    apply = jax.jit(apply, compiler_options=_UNOPTIMIZED)
    output, state = apply(variables, inputs)
    expected = arrays["out/F_raw" if "out/F_raw" in arrays else "out/y"]
    yield output, expected
    for key, array in arrays.items():
        if key.startswith("act"):
            kind, tap = key.split("/", 1)
            ours = state["intermediates"][paths[tap]]["__call__"][0]
            yield (ours.mean((1, 2)) if kind == "act_gap" else ours), array


def _autoencoder(network: nn.Module, variables: dict, inputs: tuple, arrays: Arrays):
    def apply(variables, images):
        mean, log_variance = network.apply(variables, images, method="encode")
        decoded = network.apply(variables, mean, method="decode")
        return mean, log_variance, decoded

    found = jax.jit(apply, compiler_options=_UNOPTIMIZED)(variables, *inputs)
    for ours, key in zip(found, ("mean", "logvar", "decoded"), strict=True):
        yield ours, arrays[f"out/{key}"]


def table() -> list[str]:
    """The rows of the table; every golden file is compared once."""
    measured = {}
    for named in NAMED.values():
        if named.golden not in measured:
            measured[named.golden] = error_of(named)
            print(f"{named.golden:20s} {measured[named.golden]:.1e}", flush=True)
    return [
        HEADER,
        "|---|---|---|---|---|",
        *(
            f"| {name} | {named.parameter_count():,} | {named.golden} | "
            f"{measured[named.golden]:.1e} | {named.family} |"
            for name, named in NAMED.items()
        ),
    ]


def replace_table(text: str, rows: list[str]) -> str:
    """Returns `text` with the table of the same first row replaced."""
    lines = text.splitlines()
    start = lines.index(rows[0])
    stop = start
    while stop < len(lines) and lines[stop].startswith("|"):
        stop += 1
    return "\n".join([*lines[:start], *rows, *lines[stop:]]) + "\n"


def write_or_print(rows: list[str]) -> None:
    """Replaces the table of these headers in --write, or prints it."""
    if WRITE.value:
        path = pathlib.Path(WRITE.value)
        path.write_text(replace_table(path.read_text(), rows))
    else:
        print("\n".join(rows))


def main(argv):
    """Prints the table, or writes it."""
    del argv
    jax.config.update("jax_default_matmul_precision", "highest")
    write_or_print(table())


if __name__ == "__main__":
    app.run(main)
