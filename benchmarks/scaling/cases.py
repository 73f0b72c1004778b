"""The training steps that are counted, by name."""

from benchmarks.scaling.programs import Case
from ddae_jax.models.remat import KEEP_ALL, POLICIES

MEASURED_BATCH = {"unet-ddpm": 128, "unet-ddpmpp": 64, "dit-xl2": 32}
"""Network -> images on one device: those of benchmarks/README.md's H200."""
RECIPE_BATCH = {"unet-ddpm": 512, "unet-ddpmpp": 512, "dit-xl2": 256}
"""Network -> images of a step of its published recipe, over all devices."""
_BOTH = ((8, 1), (8, 8), (64, 1), (64, 64))
LAYOUTS = {
    "unet-ddpm": _BOTH,
    "unet-ddpmpp": ((8, 1), (64, 1), (64, 64)),
    "dit-xl2": (*_BOTH, (64, 8)),
}
"""Network -> (devices, of which so many share the parameters)."""
SHARES = (1, 2, 4, 8)
"""Devices that share the parameters, in the table of memory."""
SMALLEST = "smallest"
"""A DiT-S/2 of two blocks, which the tests count again."""


def layout_name(network: str, devices: int, fsdp: int) -> str:
    """The name of a recipe's step on so many devices."""
    return f"{network}/{devices}/fsdp{fsdp}"


def remat_name(network: str, policy: str) -> str:
    """The name of a step on one device that recomputes."""
    return f"{network}/remat-{policy}"


def share_name(fsdp: int) -> str:
    """The name of the smallest step whose parameters so many of 8 devices share."""
    return f"{SMALLEST}/8/fsdp{fsdp}"


def _cases() -> dict[str, tuple[int, Case]]:
    found = {
        share_name(fsdp): (8, Case("dit-s2", 16, fsdp, dtype="float32", depth=2))
        for fsdp in SHARES
    }
    for network in RECIPE_BATCH:
        for devices, fsdp in LAYOUTS[network]:
            name = layout_name(network, devices, fsdp)
            found[name] = devices, Case(network, RECIPE_BATCH[network], fsdp)
        for policy in (KEEP_ALL, *POLICIES):
            case = Case(network, MEASURED_BATCH[network], remat=policy)
            found[remat_name(network, policy)] = 1, case
    return found


CASES = _cases()
"""Name -> (devices, step)."""
