"""Prints the tables of docs/scaling.md, or brings them up to date.

    python -m benchmarks.scaling [--write=docs/scaling.md]

Nothing is compiled: `python -m benchmarks.scaling.count` counts.
"""

from absl import app

from benchmarks import golden_errors
from benchmarks.scaling import facts, tables


def main(argv):
    """Prints or writes every table."""
    del argv
    for table in tables.all_tables(facts.read()):
        golden_errors.write_or_print(table)


if __name__ == "__main__":
    app.run(main)
