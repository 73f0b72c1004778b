"""The tables of docs/scaling.md: arithmetic on facts.json and on published rates."""

from benchmarks.scaling import estimate
from benchmarks.scaling.cases import (
    LAYOUTS,
    MEASURED_BATCH,
    RECIPE_BATCH,
    SHARES,
    layout_name,
    remat_name,
    share_name,
)
from benchmarks.scaling.hardware import CLUSTERS, GIB, H200, TB, Cluster
from benchmarks.scaling.programs import Facts
from benchmarks.scaling.recipes import RECIPES, Recipe
from ddae_jax.models.remat import KEEP_ALL, POLICIES

GFLOP, MIB = 10**9, 2**20
Counted = dict[str, Facts]
Table = list[str]
"""Lines of Markdown; the first is the header, which no other table has."""


def all_tables(facts: Counted) -> list[Table]:
    """Every table of the document, in its order."""
    return [
        published(),
        collectives(facts),
        measured(facts),
        estimates(facts),
        days(facts),
        shares(facts),
        states(facts),
        remat(facts),
    ]


def published() -> Table:
    """What the makers say of each accelerator."""
    rows = []
    for hardware in {cluster.hardware: None for cluster in CLUSTERS}:
        links = " within a node, ".join(
            f"{link.bandwidth / 1e9:.0f}" for link in hardware.links
        )
        rows.append(
            (
                hardware.name,
                f"{hardware.peak / TB:.0f}",
                f"{hardware.memory / GIB:.0f}",
                f"{hardware.memory_bandwidth / TB:.2f}",
                links + (" between nodes" if len(hardware.links) > 1 else ""),
                f"{estimate.slowdown(hardware):.2f}",
            )
        )
    header = (
        "accelerator (published)",
        "bfloat16 TFLOP/s",
        "memory GiB",
        "memory TB/s",
        "links GB/s, one direction",
        "time over the H200's",
    )
    return _table(header, rows)


def collectives(facts: Counted) -> Table:
    """What the compiled steps send."""
    rows = []
    for network in RECIPE_BATCH:
        for devices, fsdp in LAYOUTS[network]:
            counted = facts[layout_name(network, devices, fsdp)]
            gradient = estimate.GRADIENT_BYTES * counted.parameters
            for one in counted.collectives:
                rows.append(
                    (
                        estimate.MEASURED[network].label,
                        f"{devices} ({fsdp})",
                        one.kind,
                        f"{one.group}" + f", every {one.stride}th" * (one.stride > 1),
                        f"{one.count}",
                        f"{one.bytes / MIB:,.1f}",
                        f"{one.bytes / gradient:.3f}",
                    )
                )
    header = (
        "counted in a step of",
        "devices (that share)",
        "collective",
        "group",
        "number",
        "MiB",
        "over the gradient's",
    )
    return _table(header, rows)


def measured(facts: Counted) -> Table:
    """What one device did, and the share of its published rate that this is."""
    rows = []
    for network, found in estimate.MEASURED.items():
        counted = facts[layout_name(network, 8, 1)]
        image = counted.flops / RECIPE_BATCH[network]
        share = found.images_per_second * image / H200.peak
        rows.append(
            (
                found.label,
                f"{found.batch}",
                f"{found.images_per_second:,}",
                f"{image / GFLOP:.1f}",
                f"{share:.2f}",
                f"{found.memory / GIB:.1f}",
            )
        )
    header = (
        "measured on one H200",
        "batch",
        "images/s",
        "GFLOP an image",
        "of its published rate",
        "memory, GiB",
    )
    return _table(header, rows)


def estimates(facts: Counted) -> Table:
    """Step time, efficiency and memory of each recipe's batch on each cluster."""
    rows = []
    for network, batch in RECIPE_BATCH.items():
        for cluster in CLUSTERS:
            for devices, fsdp in LAYOUTS[network]:
                if devices == cluster.devices:
                    rows.append(_estimate(network, cluster, fsdp, batch, facts))
    header = (
        "estimated step of",
        "on (devices that share)",
        "images a device",
        "networks, ms",
        "optimiser, ms",
        "collectives, ms",
        "step, ms",
        "efficiency",
        "memory, GiB",
    )
    return _table(header, rows)


def _estimate(network, cluster, fsdp, batch, facts):
    found = estimate.estimate(network, cluster, fsdp, batch, facts)
    kinds = ", ".join(
        f"{kind} {1e3 * seconds:.2f}" for kind, seconds in found.collectives.items()
    )
    fits = "" if found.memory < cluster.hardware.memory else ": does not fit"
    return (
        f"{estimate.MEASURED[network].label}, batch {batch}",
        f"{cluster.name} ({fsdp})",
        f"{batch / cluster.devices:g}",
        f"{1e3 * found.compute:.1f}",
        f"{1e3 * found.optimiser:.2f}",
        kinds,
        f"{1e3 * found.fastest:.1f} to {1e3 * found.slowest:.1f}",
        f"{found.ideal / found.slowest:.2f} to {found.ideal / found.fastest:.2f}",
        f"{found.memory / GIB:.1f}{fits}",
    )


def days(facts: Counted) -> Table:
    """How long each published training takes where nothing overlaps."""
    rows = [
        (
            recipe.label,
            f"{recipe.batch} x {recipe.steps:,}",
            *(_days(recipe, cluster, facts) for cluster in CLUSTERS),
        )
        for recipe in RECIPES
    ]
    names = [cluster.name for cluster in CLUSTERS]
    return _table(("estimated days of", "batch x steps", *names), rows)


def _days(recipe: Recipe, cluster: Cluster, facts: Counted) -> str:
    found = [
        estimate.estimate(recipe.network, cluster, fsdp, recipe.batch, facts)
        for devices, fsdp in LAYOUTS[recipe.network]
        if devices == cluster.devices
    ]
    fitting = [one.slowest for one in found if one.memory < cluster.hardware.memory]
    if not fitting:
        return "does not fit"
    return f"{min(fitting) * recipe.steps / 86_400:.3g}"


def shares(facts: Counted) -> Table:
    """The memory of a device, as more of eight devices share the parameters."""
    first, rows = facts[share_name(1)], []
    for fsdp in SHARES:
        counted = facts[share_name(fsdp)]
        share = counted.state_bytes / first.state_bytes
        rows.append(
            (
                f"{fsdp}",
                f"{counted.state_bytes / MIB:.2f}",
                f"{share:.4f}",
                f"{counted.argument_bytes / MIB:.2f}",
                f"{counted.temporary_bytes / MIB:.1f}",
            )
        )
    header = (
        "config.mesh.fsdp of 8",
        "state, MiB a device",
        "over one's",
        "arguments, MiB",
        "temporaries, MiB",
    )
    return _table(header, rows)


def states(facts: Counted) -> Table:
    """The same of the published networks, where they were compiled."""
    rows = []
    for network in RECIPE_BATCH:
        for devices, fsdp in LAYOUTS[network]:
            counted = facts[layout_name(network, devices, fsdp)]
            rows.append(
                (
                    estimate.MEASURED[network].label,
                    f"{devices} ({fsdp})",
                    f"{counted.state_bytes / MIB:,.1f}",
                    f"{counted.argument_bytes / MIB:,.1f}",
                    f"{counted.temporary_bytes / MIB:,.1f}",
                )
            )
    header = (
        "memory of",
        "devices (that share)",
        "state, MiB a device",
        "arguments, MiB",
        "temporaries, MiB",
    )
    return _table(header, rows)


def remat(facts: Counted) -> Table:
    """Memory and FLOPs of each policy, on one device."""
    rows = []
    for network, batch in MEASURED_BATCH.items():
        plain = facts[remat_name(network, KEEP_ALL)]
        for policy in (KEEP_ALL, *POLICIES):
            counted = facts[remat_name(network, policy)]
            rows.append(
                (
                    f"{estimate.MEASURED[network].label}, batch {batch}",
                    policy,
                    f"{counted.image_bytes / MIB:.1f}",
                    f"{counted.image_bytes / plain.image_bytes:.2f}",
                    f"{counted.flops / TB:.2f}",
                    f"{counted.flops / plain.flops:.3f}",
                    f"{counted.temporary_bytes / GIB:.2f}",
                )
            )
    header = (
        "one device, bfloat16",
        "config.network.remat",
        "kept for an image, MiB",
        "over none's",
        "TFLOP a step",
        "over none's",
        "temporaries on a CPU, GiB",
    )
    return _table(header, rows)


def _table(header, rows) -> Table:
    lines = [header, ("---",) * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
