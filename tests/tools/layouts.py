"""Runs of launch/local.sh as so many processes with so many devices; their results."""

import csv
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.tools import runs as run_tools

LAYOUTS = {"1x4": (1, 4), "2x2": (2, 2), "4x1": (4, 1)}
"""Processes x devices of each."""
# What differs between equal runs, what names bits of weights, what is no result.
_NOT_COMPARED = run_tools.TIMES | {
    "folder",
    "weights",
    "weights_sha256",
    "checkpoint.weights",
    "identity",
    "model",
    "about",
}
_NOT_RESULTS = ("config.json", "preflight.json", "export", "cache", "features/")


# Python imports it at its start: notes which process writes which file.
_AUDIT = """
import sys
WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")
log = open({log!r}, "a", buffering=1)

def note(event, args):
    if event == "open" and isinstance(args[1], str) and not set("wax+") & set(args[1]):
        return
    if event != "open" and event not in WRITES or not isinstance(args[0], str):
        return
    if event == "open" and args[1] is None and not args[2] & 3:  # os.open to read
        return
    index = [word for word in sys.argv if word.startswith("--process_index=")]
    if index and {workdir!r} in args[0]:
        log.write(index[0].split("=")[1] + " " + args[0] + chr(10))

sys.addaudithook(note)
"""


def audited(folder: pathlib.Path, workdir: pathlib.Path) -> dict[str, str]:
    """Environment in which each process of a run notes what it writes in `workdir`."""
    folder.mkdir()
    log = str(folder / "written.txt")
    content = _AUDIT.format(log=log, workdir=str(workdir))
    (folder / "sitecustomize.py").write_text(content)
    return {"PYTHONPATH": str(folder)}


def written(folder: pathlib.Path) -> dict[int, set[str]]:
    """Process -> paths that it wrote, by Python, in a run that was `audited`."""
    found: dict[int, set[str]] = {}
    for line in (folder / "written.txt").read_text().splitlines():
        index, path = line.split(" ", 1)
        found.setdefault(int(index), set()).add(path)
    return found


def start(
    layout: str, *words: str, environment: Mapping[str, str] | None = None
) -> subprocess.Popen:
    """Starts the command line in this layout; stderr is piped."""
    processes, devices = LAYOUTS[layout]
    flags = os.environ.get("XLA_FLAGS", "")
    flags += f" --xla_force_host_platform_device_count={devices}"
    ours = {"PYTHON": sys.executable, "XLA_FLAGS": flags}
    return subprocess.Popen(
        ["bash", "launch/local.sh", str(processes), *words],
        cwd=run_tools.ROOT,
        env=os.environ | ours | (environment or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(
    layout: str,
    *words: str,
    status: int = 0,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Runs the command line in this layout, checks its status, returns stderr."""
    process = start(layout, *words, environment=environment)
    _, errors = process.communicate(timeout=900)
    assert process.returncode == status, errors
    return errors


def files(workdir: pathlib.Path) -> set[str]:
    """Names of the files of a workdir, without the hashes in them.

    Those of checkpoints and events are left out: they follow the processes, or times.
    """
    names = (path for path in workdir.rglob("*") if path.is_file())
    relative = (path.relative_to(workdir).as_posix() for path in names)
    return {
        re.sub(r"[0-9a-f]{12,64}", "HASH", name)
        for name in relative
        if "checkpoints/" not in name and "events/" not in name
    }


def results(workdir: pathlib.Path) -> dict[str, Any]:
    """ "FILE/KEY" -> number, text or array, of all results in a workdir."""
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
                rows = list(csv.reader(stream))
            found |= _flat(name, [[_number(cell) for cell in row] for row in rows])
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found |= _flat(name, dict(arrays))
    return found


def _flat(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return {name: value}
    found = {}
    for key, inner in value.items():
        if key not in _NOT_COMPARED and not str(key).endswith("seconds"):
            found |= _flat(f"{name}/{key}", inner)
    return found


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def assert_same(one: Mapping[str, Any], other: Mapping[str, Any], names: tuple) -> None:
    """Asserts that `results` agree but for the order of sums.

    Args:
      names: (beginning of a name, relative and absolute tolerance), the first counts.
    """
    assert one.keys() ^ other.keys() == set()
    for name, value in one.items():
        number = isinstance(value, float | np.ndarray) and not isinstance(value, bool)
        if not number or np.asarray(value).dtype.kind not in "fc":
            np.testing.assert_array_equal(other[name], value, err_msg=name)
            continue
        relative, absolute = next(
            tolerances for start, *tolerances in names if name.startswith(start)
        )
        np.testing.assert_allclose(other[name], value, relative, absolute, err_msg=name)
