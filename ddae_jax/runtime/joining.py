"""How the processes of one run find each other: at once, or one line instead of a hang.

On several hosts each process gets the same coordinator, HOST:PORT of process 0, the
number of processes and its own index; or "auto" where the cluster tells jax all three.
"""

import ipaddress
import os

import jax

from ddae_jax.errors import UserError
from ddae_jax.runtime import exits, hardware

AUTO = "auto"
HEARTBEAT_SECONDS = 30  # of silence, after which a process counts as dead


def join(
    coordinator: str | None,
    process_count: int | None,
    process_index: int | None,
    local_devices: str | None = None,
    *,
    hosts: int = 0,
    seconds: int = 300,
) -> None:
    """Joins the processes of one run. Without a coordinator, this process is alone.

    A process that does not find the others, or its own devices, ends after `seconds`
    with one line and exit status 2.

    Args:
      coordinator: HOST:PORT of process 0, or "auto" where the cluster tells jax itself
        (TPU pods, SLURM).
      local_devices: numbers of the GPUs that this process uses among those that it
        sees, such as "0,1"; None: all of them. (Left to itself, jax takes one GPU of
        each node under SLURM, jax-ml/jax#16788.)
      hosts: that the run has, 0 where that is not known.

    Raises:
      UserError: a count or an index without a coordinator, or the other way round; a
        coordinator that other hosts cannot reach; or jax cannot use what is given.
    """
    numbers = (process_count, process_index)
    if coordinator is None:
        if numbers != (None, None):
            raise UserError(
                "--process_count, --process_index: they need --coordinator=HOST:PORT"
            )
        if local_devices is not None:
            raise UserError(
                "--local_devices: it needs --coordinator=HOST:PORT; alone, a process "
                "takes the GPUs of CUDA_VISIBLE_DEVICES"
            )
        _find_devices(seconds)
        return
    if coordinator != AUTO and None in numbers:
        raise UserError(
            f"--coordinator={coordinator}: give --process_count and --process_index, "
            "or --coordinator=auto where the cluster tells them"
        )
    _check_reachable(coordinator, hosts)
    automatic = coordinator == AUTO
    of_index = "" if process_index is None else f" (this is process {process_index})"
    line = (
        f"error: --coordinator={coordinator}: the {process_count or ''} processes of "
        f"the run did not all come within {seconds} s{of_index}; look at what the "
        "others said last, and whether this address can be reached from each host"
    )
    exits.last_words(f"error: this process was killed, or {exits.PEER_IS_LOST}")
    # jax's own time limit kills the process with a stack trace: ours comes first.
    try:
        with exits.limit(seconds, " ".join(line.split())):
            jax.distributed.initialize(
                None if automatic else coordinator,
                *numbers,
                local_device_ids=_local_ids(local_devices, automatic),
                cluster_detection_method=None if automatic else "deactivate",
                initialization_timeout=seconds + 60,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            )
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--coordinator={coordinator}: {reason}") from error
    _find_devices(seconds)


def _find_devices(seconds: int) -> None:
    """Asks for the devices, which waits for those of all processes."""
    line = (
        f"error: the devices did not answer within {seconds} s; another program may "
        "hold those of this machine, or a process of the run has none"
    )
    with exits.limit(seconds, line):
        jax.devices()


def _check_reachable(coordinator: str, hosts: int) -> None:
    if coordinator != AUTO:
        # A step of SLURM knows on how many machines it runs.
        hosts = max(hosts, int(os.environ.get("SLURM_STEP_NUM_NODES", "0")))
    if hosts > 1 and is_loopback(coordinator):
        raise UserError(
            f"--coordinator={coordinator}: a loopback address means its own machine on "
            f"each of the {hosts} hosts; give the name of the host of process 0"
        )


def is_loopback(coordinator: str) -> bool:
    """Whether HOST:PORT names the machine that asks, whichever that is."""
    host = coordinator.rpartition(":")[0].strip("[]").lower()
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("", "localhost") or host.endswith(
            (".localhost", ".localdomain")
        )


def _local_ids(local_devices: str | None, automatic: bool) -> list[int] | None:
    """Numbers of this process's GPUs, from 0, among those that CUDA shows it."""
    if local_devices is not None:
        words = local_devices.split(",")
        if not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
            raise UserError(f"--local_devices={local_devices}: write numbers, as 0,1,2")
        return [int(word) for word in words]
    nodes = os.environ.get("SLURM_STEP_NUM_NODES")
    if automatic and nodes and nodes == os.environ.get("SLURM_NTASKS"):
        return list(range(len(hardware.gpus()))) or None
    return None
