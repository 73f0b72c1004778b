"""Counts anew what facts.json holds, one program at a time.

    python -m benchmarks.scaling.count --only=unet-ddpm/8

counts the cases whose names begin so and that are not in the file yet (--again: also
those). Each is compiled in a process of its own, which has as many fake CPU devices;
of the large ones each takes one to three minutes of a core.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time

import jax
from absl import app, flags

from benchmarks.scaling import facts, programs
from benchmarks.scaling.cases import CASES

_ONLY = flags.DEFINE_list("only", [""], "Beginnings of names of cases, in this order.")
_AGAIN = flags.DEFINE_bool("again", False, "Also what is in the file.")
_ONE = flags.DEFINE_string("one", None, "Prints the facts of one case as JSON.")


def count(name: str) -> programs.Facts:
    """Compiles a case in a process of its own, with its number of fake devices."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling.count", f"--one={name}"],
        stdout=subprocess.PIPE,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        check=True,
        text=True,
    )
    return facts.from_json(json.loads(done.stdout.splitlines()[-1]))


def main(argv):
    """Counts what is missing."""
    del argv
    if _ONE.value:
        devices, case = CASES[_ONE.value]
        jax.config.update("jax_num_cpu_devices", devices)
        print(json.dumps(dataclasses.asdict(programs.compiled(case))))
        return
    asked = [name for start in _ONLY.value for name in CASES if name.startswith(start)]
    for name in asked:
        if name in facts.read() and not _AGAIN.value:
            continue
        start = time.monotonic()
        facts.add(name, count(name))
        print(f"{name:32s} {time.monotonic() - start:6.0f} s", flush=True)


if __name__ == "__main__":
    app.run(main)
