"""Accelerators by what their makers publish of them. Nothing here was measured.

TPUs: docs.cloud.google.com/tpu/docs/v5e, /v6e and /v5p, "Peak compute per chip (bf16)",
"HBM capacity", "HBM bandwidth" and "Bidirectional inter-chip interconnect (ICI)
bandwidth (per chip)", of which one direction has half.

GPUs: NVIDIA's data sheets of the H100 and H200 (SXM): half of the bfloat16 rate there,
which counts on sparsity; NVLink 4 with 900 GB/s, half of it in one direction; and of
the DGX H100 and H200: a ConnectX-7 of 400 Gbit/s for each GPU.
"""

import dataclasses

GIB, TB = 2**30, 10**12


@dataclasses.dataclass(frozen=True)
class Link:
    """A network between devices.

    Attributes:
      devices: that it connects; None: all of a slice or cluster.
      bandwidth: bytes/s of one device in one direction.
    """

    devices: int | None
    bandwidth: float


@dataclasses.dataclass(frozen=True)
class Hardware:
    """One kind of accelerator, as published.

    Attributes:
      name: short.
      peak: bfloat16 FLOP/s of matrix products without sparsity.
      memory: bytes.
      memory_bandwidth: bytes/s.
      links: from the innermost out.
    """

    name: str
    peak: float
    memory: float
    memory_bandwidth: float
    links: tuple[Link, ...]


@dataclasses.dataclass(frozen=True)
class Cluster:
    """So many of them.

    Attributes:
      name: by which it is asked for.
      hardware: of each device.
      devices: chips or GPUs.
    """

    name: str
    hardware: Hardware
    devices: int


_HOPPER_LINKS = (Link(8, 450e9), Link(None, 50e9))
V5E = Hardware("v5e", 197 * TB, 16 * GIB, 819e9, (Link(None, 200e9),))
V6E = Hardware("v6e", 918 * TB, 32 * GIB, 1640e9, (Link(None, 400e9),))
V5P = Hardware("v5p", 459 * TB, 95 * GIB, 2765e9, (Link(None, 600e9),))
H100 = Hardware("H100", 989 * TB, 80e9, 3.35e12, _HOPPER_LINKS)
H200 = Hardware("H200", 989 * TB, 141e9, 4.8e12, _HOPPER_LINKS)

CLUSTERS = (
    Cluster("v5e-64", V5E, 64),
    Cluster("v6e-64", V6E, 64),
    Cluster("v5p-128", V5P, 64),  # its name counts cores, of which a chip has two
    Cluster("8 H100", H100, 8),
    Cluster("64 H100", H100, 64),
    Cluster("8 H200", H200, 8),
    Cluster("64 H200", H200, 64),
)
