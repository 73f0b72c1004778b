"""The page's part about training: curves of what was logged, and samples."""

import pathlib

from ddae_jax.report import figures, page, turned
from ddae_jax.runtime import log

GRIDS_SHOWN = 4
"""Grids of samples over training, evenly chosen."""


def training(workdir: pathlib.Path) -> page.PageSection:
    """Curves of what pretrain logged."""
    rows = log.read_metrics(workdir)
    losses = figures.losses(rows)
    if not figures.present(rows, losses):
        missing = page.Missing("training log", "pretrain")
        return page.PageSection("Training", [missing], "Training")
    last = rows[-1]
    facts = {"steps": last["step"], "last loss": last.get("loss")}
    for name, label in (
        ("images_per_second", "images/s"),
        ("seconds_per_step", "seconds per step"),
        ("flops_per_step", "FLOPs per step"),
        ("input_share", "share of a step in which the host made batches"),
        ("peak_share", "share of the chip's peak"),
    ):
        if last.get(name) is not None:
            facts[label] = last[name]
    groups = [
        (losses, "loss over training"),
        (figures.NORMS, "norms over training"),
        (figures.SPEED, "images per second over training"),
    ]
    blocks = [
        page.Turned(
            turned.panels(rows, names), page.figure(figures.panels(rows, names), alt)
        )
        for names, alt in groups
        if figures.present(rows, names)
    ]
    shown = [page.Row(blocks), page.Facts(facts)]
    return page.PageSection("Training", shown, "Training")


def samples(workdir: pathlib.Path) -> page.PageSection:
    """The sample grid, and grids drawn during training."""
    blocks = []
    final = workdir / "samples.png"
    if final.is_file():
        blocks.append(page.png_file(final, "Samples of the EMA weights", pixels=True))
    strips = {
        "trajectory": "The x0 estimates on the way to a sample, a sample a row",
        "interpolation": "From one sample to another: the noise between theirs",
    }
    blocks += [
        page.png_file(workdir / f"{name}.png", caption, pixels=True)
        for name, caption in strips.items()
        if (workdir / f"{name}.png").is_file()
    ]
    grids = sorted((workdir / "images").glob("step_*.png"))
    if len(grids) > GRIDS_SHOWN:
        last = len(grids) - 1
        grids = [grids[i * last // (GRIDS_SHOWN - 1)] for i in range(GRIDS_SHOWN)]
    if grids:
        steps = [path.stem.removeprefix("step_").lstrip("0") or "0" for path in grids]
        shown = [
            page.png_file(path, f"Step {step}", pixels=True)
            for path, step in zip(grids, steps, strict=True)
        ]
        blocks.append(page.Row(shown, small=True))
    shown = blocks or [page.Missing("samples", "sample")]
    return page.PageSection("Samples", shown, "Samples")
