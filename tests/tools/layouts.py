"""Runs of launch/local.sh as so many processes with so many devices; their results."""

import csv
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.tools import runs as run_tools

LAYOUTS = {"1x4": (1, 4), "2x2": (2, 2), "4x1": (4, 1)}
"""Processes x devices of each."""
# What differs between equal runs, or is of the run rather than of the result.
_TIMES = run_tools.TIMES | {"seconds", "folder", "noise_key"}
_NOT_RESULTS = ("config.json", "preflight.json", "export")


def start(layout: str, *words: str) -> subprocess.Popen:
    """Starts the command line in this layout; stderr is piped."""
    processes, devices = LAYOUTS[layout]
    flags = os.environ.get("XLA_FLAGS", "")
    flags += f" --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        ["bash", "launch/local.sh", str(processes), *words],
        cwd=run_tools.ROOT,
        env=os.environ | {"PYTHON": sys.executable, "XLA_FLAGS": flags},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(layout: str, *words: str, status: int = 0) -> str:
    """Runs the command line in this layout, checks its status, returns stderr."""
    process = start(layout, *words)
    _, errors = process.communicate(timeout=900)
    assert process.returncode == status, errors
    return errors


def files(workdir: pathlib.Path) -> set[str]:
    """Names of the files of a workdir, but for those that have a time in their name."""
    names = (path for path in workdir.rglob("*") if path.is_file())
    relative = (path.relative_to(workdir).as_posix() for path in names)
    return {
        name
        for name in relative
        if "checkpoints/" not in name and "events/" not in name
    }


def results(workdir: pathlib.Path) -> dict[str, Any]:
    """"FILE/KEY" -> number, text or array, of all results in a workdir."""
    found: dict[str, Any] = {}
    for path in sorted(workdir.rglob("*")):
        name = path.relative_to(workdir).as_posix()
        if name.startswith(_NOT_RESULTS) or "checkpoints/" in name:
            continue
        if path.suffix == ".json":
            found |= _flat(name, json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found |= _flat(name, {str(row["step"]): row for row in rows})
        elif path.suffix == ".csv":
            with path.open(newline="") as stream:
                rows = {str(i): row for i, row in enumerate(csv.reader(stream))}
            found |= _flat(name, rows)
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found |= {f"{name}/{key}": arrays[key] for key in arrays}
    return found


def _flat(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return {name: value}
    found = {}
    for key, inner in value.items():
        if key not in _TIMES:
            found |= _flat(f"{name}/{key}", inner)
    return found
