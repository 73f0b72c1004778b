"""Peak memory of a training step of the 35.7 M UNet, ours and PyTorch's.

    python -m benchmarks.step_memory --batch=16

Each side is a process of its own, in turn: three steps, then the most memory that it
ever held (ru_maxrss). "imported" is the same before the network is built. The last line
is JSON.
"""

import json
import subprocess
import sys

from absl import app, flags

BATCH = flags.DEFINE_integer("batch", 16, "Images a step.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 1, "Processes of each side.", lower_bound=1)

_RUN = """
import resource
import numpy as np
{imports}
def held():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
imported = held()
images = np.zeros(({batch}, 32, 32, 3), np.uint8)
run = {build}
for _ in range(3):
    run()
print(imported, held())
"""

SIDES = {
    "ours": (
        "from benchmarks import ours\nfrom ddae_jax.runtime import compiler",
        "ours.trainer(ours.build('float32'), images, compiler.compiler_options())",
    ),
    "torch": (
        "from benchmarks import theirs",
        "theirs.trainer(theirs.build('cpu', False), images, 'cpu', 'float32', False, "
        "False)",
    ),
}


def main(argv):
    """Measures and prints a line a process."""
    del argv
    found = {name: [] for name in SIDES}
    for _ in range(ROUNDS.value):
        for name, (imports, build) in SIDES.items():
            script = _RUN.format(imports=imports, build=build, batch=BATCH.value)
            done = subprocess.run(
                [sys.executable, "-c", script], check=True, capture_output=True
            )
            imported, peak = map(int, done.stdout.split())
            found[name].append({"imported": imported, "peak": peak})
            print(
                f"{name:6s} imported {imported / 2**20:6.0f} MiB"
                f"  peak {peak / 2**20:6.0f} MiB",
                flush=True,
            )
    print(json.dumps({"batch": BATCH.value, "bytes": found}))


if __name__ == "__main__":
    app.run(main)
