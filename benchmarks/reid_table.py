"""The table of benchmarks/reid_experiment.py, and what became of the paper's claims.

python -m benchmarks.reid_table runs/reid_experiment
"""

import json
import pathlib
import sys
from collections.abc import Mapping

import numpy as np

from benchmarks.ablation_table import verdict
from ddae_jax.report import outcome

NAME = "reid_experiment"
MEASURES = {"rank_1": "rank-1 %", "map_precision_at_hits": "mAP %"}
# Claim -> (row that it is compared with, row that shall be better), as (losses,
# distance, re-ranked).
CLAIMS = {
    "local learning helps the global feature": (
        ("global", "global", False),
        ("local", "global", False),
    ),
    "the local distance adds nothing at test time": (
        ("local", "global", False),
        ("local", "summed", False),
    ),
    "mutual learning helps": (("local", "global", False), ("mutual", "global", False)),
    "re-ranking helps": (("local", "global", False), ("local", "global", True)),
}

Key = tuple[str, str, str, bool]
"""Backbone, losses, distance, re-ranked."""


def collected(folder: pathlib.Path) -> dict[Key, dict[str, list[float]]]:
    """Row -> measure -> values of its seeds, in %."""
    rows: dict[Key, dict[str, list[float]]] = {}
    for path in sorted(folder.glob("seed*/reid_*_*.json")):
        _, backbone, losses = path.stem.split("_")
        for result in json.loads(path.read_text())["results"]:
            key = (backbone, losses, result["distance"], result["re_ranked"])
            row = rows.setdefault(key, {name: [] for name in MEASURES})
            for name in MEASURES:
                row[name].append(100 * result[name])
    return rows


def claims(rows: Mapping[Key, Mapping[str, list[float]]]) -> dict[str, dict[str, str]]:
    """Claim -> backbone -> what the seeds say of it, by mAP and rank-1.

    "no effect": the difference of the means is inside twice the larger spread.
    """
    found: dict[str, dict[str, str]] = {}
    for claim, (plain, other) in CLAIMS.items():
        found[claim] = {}
        for backbone in dict.fromkeys(key[0] for key in rows):
            one, two = rows.get((backbone, *plain)), rows.get((backbone, *other))
            if one is None or two is None or len(one["rank_1"]) != len(two["rank_1"]):
                continue
            told = []
            for name, title in MEASURES.items():
                difference = np.mean(two[name]) - np.mean(one[name])
                words = verdict(one[name], two[name], 1) or "one seed"
                told.append(f"{title} {difference:+.1f} ({words})")
            found[claim][backbone] = "; ".join(told)
    return found


def write(folder: pathlib.Path) -> None:
    """Writes reid_experiment.json and .txt of what is there."""
    rows = collected(folder)
    if not rows:
        return
    found = claims(rows)
    outcome.write(
        folder,
        NAME,
        outcome.Outcome(
            title="AlignedReID on synthetic persons",
            summary=f"{len(rows)} rows",
            facts={
                "rows": [
                    {
                        "backbone": key[0],
                        "losses": key[1],
                        "distance": key[2],
                        "re_ranked": key[3],
                        **row,
                    }
                    for key, row in rows.items()
                ],
                "claims": found,
            },
            protocol={
                "config": "configs/reid_demo.py",
                "spread": "standard deviation over seeds",
                "no effect": "inside twice the larger spread",
            },
            headers=("backbone", "losses", "distance", "seeds", *MEASURES.values()),
            rows=[
                (
                    backbone,
                    losses,
                    f"{distance}, re-ranked" if re_ranked else distance,
                    len(row["rank_1"]),
                    *(_cell(row[name]) for name in MEASURES),
                )
                for (backbone, losses, distance, re_ranked), row in rows.items()
            ],
            note=" ".join(
                f"{claim}: {backbone}: {words}."
                for claim, told in found.items()
                for backbone, words in told.items()
            ),
        ),
    )


def _cell(values: list[float]) -> str:
    mean = f"{np.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.1f}"


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]))
