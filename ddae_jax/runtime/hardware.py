"""Accelerators that this process could use, as the machine shows them without jax."""

import os
import pathlib
import re
import subprocess

_SECONDS = 20  # that nvidia-smi may take
_GOOGLE = "0x1ae0"
# PCI devices of TPU chips: v2 and v3, v4, v5p, v5e, v6e, 7x. Others of Google's are
# network cards and disks.
_TPU_CHIPS = ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")


def gpus() -> list[str]:
    """NVIDIA GPUs, by what names them: the words of CUDA_VISIBLE_DEVICES where it is
    set, else indices. Those that a scheduler hides from this process do not count.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        words = [word.strip() for word in visible.split(",")]
        # As CUDA reads it: what comes after the first that it cannot use is hidden.
        ends = [i for i, word in enumerate(words) if word in ("", "-1", "NoDevFiles")]
        return words[: ends[0]] if ends else words
    listed = _nvidia_smi()
    if listed is None:
        files = pathlib.Path("/dev").glob("nvidia*")
        listed = sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in files)
    return [str(index) for index in range(listed)]


def tpu_chips(root: pathlib.Path = pathlib.Path("/sys/bus/pci/devices")) -> int:
    """TPU chips of this machine."""
    return sum(
        _read(device / "vendor") == _GOOGLE and _read(device / "device") in _TPU_CHIPS
        for device in root.glob("*")
    )


def _nvidia_smi() -> int | None:
    """How many GPUs it lists; None where it is not there, or does not answer."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return None
    if listed.returncode:
        return None
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
