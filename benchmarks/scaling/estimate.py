"""Step time, efficiency and memory on clusters, from what was counted and measured.

One device was measured: an H200 (benchmarks/README.md, "On a GPU"). Of its time per
step, the optimiser's is taken to be that of reading and writing memory, and the rest to
grow with the images. Another accelerator is taken to be slower by the larger of two
ratios to the H200, of published bfloat16 rates and of published memory bandwidths: this
assumes that it reaches the H200's share of its peak, or of its bandwidth, whichever
binds. Collectives move at the full published rate of the links.
"""

import dataclasses

from benchmarks.scaling.cases import layout_name
from benchmarks.scaling.collectives import Collective
from benchmarks.scaling.hardware import GIB, H200, Cluster, Hardware
from benchmarks.scaling.programs import Facts

COPY_SHARE = 4.14 / 4.8
"""Of the H200's published memory bandwidth, what a copy reached (measured)."""
OPTIMISER_BYTES = 36
"""That clipping, Adam and EMA move for a parameter: five float32 arrays are read, the
gradient among them, and four written."""
GRADIENT_BYTES = 4  # float32, for a parameter


@dataclasses.dataclass(frozen=True)
class Measured:
    """Training on one H200 in bfloat16 (benchmarks/README.md).

    Attributes:
      label: of the network.
      batch: images of a step.
      images_per_second: trained.
      memory: bytes of the program, by `memory_analysis`.
    """

    label: str
    batch: int
    images_per_second: float
    memory: float


MEASURED = {
    "unet-ddpm": Measured("UNet 35.7 M", 128, 5052, 3.1 * GIB),
    # Measured with EDM's DDPM++ of 55.7 M, which has 1.5 % fewer FLOPs.
    "unet-ddpmpp": Measured("DDPM++ 56.5 M", 64, 2004, 3.9 * GIB),
    "dit-xl2": Measured("DiT-XL/2", 32, 428, 22.0 * GIB),  # with cuDNN's attention
}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Of a training step on a cluster.

    Attributes:
      compute: seconds of the networks, forward and backward.
      optimiser: seconds of clipping, Adam and EMA.
      collectives: kind -> seconds.
      ideal: seconds, if all devices ran as one does at the measured batch.
      memory: bytes of one device.
    """

    compute: float
    optimiser: float
    collectives: dict[str, float]
    ideal: float
    memory: float

    @property
    def communication(self) -> float:
        """Seconds of all collectives."""
        return sum(self.collectives.values())

    @property
    def slowest(self) -> float:
        """Seconds of the step where nothing overlaps: the sum."""
        return self.compute + self.optimiser + self.communication

    @property
    def fastest(self) -> float:
        """Seconds of the step where collectives hide behind computation: the larger."""
        return max(self.compute + self.optimiser, self.communication)


def estimate(
    network: str, cluster: Cluster, fsdp: int, batch: int, facts: dict[str, Facts]
) -> Estimate:
    """Estimates a step of `batch` images over all devices.

    Args:
      facts: of all cases; those of the layout on as many devices are taken.
    """
    counted = facts[layout_name(network, cluster.devices, fsdp)]
    measured, hardware = MEASURED[network], cluster.hardware
    ratio = slowdown(hardware)
    per_image = 1 / measured.images_per_second
    images = batch / cluster.devices
    passes = per_image - _optimiser(counted.parameters, H200) / measured.batch
    collectives: dict[str, float] = {}
    for one in counted.collectives:
        seconds = collective_seconds(one, hardware)
        collectives[one.kind] = collectives.get(one.kind, 0.0) + seconds
    return Estimate(
        compute=images * passes * ratio,
        optimiser=_optimiser(counted.parameters / fsdp, hardware),
        collectives=collectives,
        ideal=images * per_image * ratio,
        memory=_memory(network, counted, fsdp, images),
    )


def slowdown(hardware: Hardware) -> float:
    """The time of a device over the H200's."""
    return max(
        H200.peak / hardware.peak, H200.memory_bandwidth / hardware.memory_bandwidth
    )


def collective_seconds(one: Collective, hardware: Hardware) -> float:
    """Time of collectives at the rate of the links, level by level.

    Over n devices a ring moves (n - 1) / n of the whole through each, an all-reduce
    twice (Patarasuk and Yuan 2009); the part of a device alone leaves its node.
    """
    inner = next((link for link in hardware.links if link.devices), None)
    outer = hardware.links[-1]
    within = 1
    if inner is not None:  # so many of the group are in one node
        within = min(one.group, max(inner.devices // one.stride, 1))
    nodes = one.group // within
    if one.kind == "all-to-all":
        near = (within - 1) / one.group
        far = (one.group - within) / one.group
    else:
        near, far = (within - 1) / within, (nodes - 1) / nodes / within
    passes = 2 if one.kind == "all-reduce" else 1
    seconds = far / outer.bandwidth
    if inner is not None:
        seconds += near / inner.bandwidth
    return passes * one.bytes * seconds


def _optimiser(parameters: float, hardware: Hardware) -> float:
    return OPTIMISER_BYTES * parameters / (COPY_SHARE * hardware.memory_bandwidth)


def _memory(network: str, counted: Facts, fsdp: int, images: float) -> float:
    """State, gradient, what the images keep, and where weights are shared all of them,
    gathered: XLA keeps what it gathered for the backward pass."""
    measured, whole = MEASURED[network], GRADIENT_BYTES * counted.parameters
    state = 4 * whole  # parameters, EMA and Adam's two moments
    per_image = (measured.memory - state - whole) / measured.batch
    gathered = whole if fsdp > 1 else 0
    return counted.state_bytes + whole / fsdp + gathered + images * per_image
