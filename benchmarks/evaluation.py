"""Speed of the evaluation tasks, against PyTorch or against plain loops of ours.

    python -m benchmarks.evaluation --part=inception --rounds=7

All sides do the same work in one process, turn by turn: only the ratio of medians
counts. The last line is JSON.
"""

import argparse
import json
from collections.abc import Sequence

from benchmarks import extraction_speed, inception_speed, probe_grid_speed

PARTS = {
    "inception": inception_speed,
    "extraction": extraction_speed,
    "grid": probe_grid_speed,
}
"""Name -> module with `add_arguments(parser)` and `run(arguments) -> dict`."""


def main(words: Sequence[str] | None = None) -> None:
    """Runs the parts that the command line names."""
    parser = argparse.ArgumentParser(prog="benchmarks.evaluation")
    parser.add_argument(
        "--part", choices=tuple(PARTS), action="append", help="default: all"
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side")
    for name, part in PARTS.items():
        part.add_arguments(parser.add_argument_group(name))
    arguments = parser.parse_args(words)
    results = {name: PARTS[name].run(arguments) for name in arguments.part or PARTS}
    print(json.dumps(results | {"rounds": arguments.rounds}))


if __name__ == "__main__":
    main()
