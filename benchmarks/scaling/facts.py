"""What was counted, kept in facts.json; `count` fills it."""

import dataclasses
import json
import pathlib

from benchmarks.scaling.cases import CASES
from benchmarks.scaling.collectives import Collective
from benchmarks.scaling.programs import Facts
from ddae_jax.runtime.files import replacing

FILE = pathlib.Path(__file__).parent / "facts.json"


def read() -> dict[str, Facts]:
    """Name of a case -> its facts."""
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    return {name: from_json(held) for name, held in found.items()}


def add(name: str, facts: Facts) -> None:
    """Puts the facts of a case into the file."""
    held = {key: dataclasses.asdict(one) for key, one in read().items()}
    held[name] = dataclasses.asdict(facts)
    ordered = {key: held[key] for key in CASES if key in held}
    with replacing(FILE) as part:
        part.write_text(json.dumps(ordered, indent=1) + "\n")


def from_json(held: dict) -> Facts:
    """Facts from the fields of their JSON."""
    collectives = tuple(Collective(**one) for one in held["collectives"])
    return Facts(**held | {"collectives": collectives})
