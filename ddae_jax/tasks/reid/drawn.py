"""Pictures of retrieval: curves, queries with what was found, an alignment."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure

from ddae_jax.data.person_images import PersonImages
from ddae_jax.metrics.path_distance import stripe_distances, traced_path
from ddae_jax.report import figures
from ddae_jax.report.outcome import Picture
from ddae_jax.report.pictures import RIGHT, WRONG, Tile, gallery
from ddae_jax.tasks.reid.evaluate import Ranked

NEAREST = 8
"""Images shown beside a query."""
_TERMS = {
    "global_triplet": "global triplets",
    "local_triplet": "local triplets",
    "identity": "persons",
    "mutual_distance": "other's distances",
    "mutual_identity": "other's persons",
}


def match_curves(table: Sequence[Ranked]) -> Picture:
    """Cumulative match characteristic of each row of the table."""
    figure, (axis,) = figures.new_figure()
    for number, ranked in enumerate(table):
        values = 100 * np.asarray(ranked.evaluation.cmc[:20])
        style = "--" if ranked.re_ranked else "-"
        colour = figures.COLOURS[number // 2 % len(figures.COLOURS)]
        ranks = np.arange(1, len(values) + 1)
        axis.plot(ranks, values, style, color=colour, label=ranked.title)
    axis.set_xlabel("rank")
    axis.set_ylabel("queries with a match (%)")
    figures.legend(axis)
    return Picture("Queries with a match among the nearest images", figure)


def training_curves(rows: Sequence[Mapping[str, float]]) -> list[Picture]:
    """Terms of the training loss over the steps; none where nothing was logged."""
    if not rows:
        return []
    figure, (axis,) = figures.new_figure()
    for number, (name, title) in enumerate(_TERMS.items()):
        points = [(row["step"], row[name]) for row in rows if name in row]
        if points:
            colour = figures.COLOURS[number % len(figures.COLOURS)]
            axis.plot(*zip(*points, strict=True), color=colour, label=title)
    axis.set_xlabel("step")
    axis.set_ylabel("term of the loss")
    figures.legend(axis)
    return [Picture("Terms of the training loss, means since the point before", figure)]


def galleries(
    queries: PersonImages,
    searched: PersonImages,
    nearest: Int[np.ndarray, "queries k"],
    distance: str,
) -> Picture:
    """A row for each query: itself, and the nearest images, framed by who they show."""
    rows = []
    blank = np.full(queries.source.image_shape, 255, np.uint8)
    for row, image in enumerate(queries.source.read(np.arange(len(queries)))):
        person = queries.identities[row]
        tiles = [Tile(image, f"camera {queries.cameras[row]}")]
        for place in nearest[row]:
            if place < 0:
                tiles.append(Tile(blank))
                continue
            right = searched.identities[place] == person
            colour = RIGHT if right else WRONG
            # Not by colour alone: not everyone can tell these two apart.
            mark = "\N{CHECK MARK}" if right else "\N{BALLOT X}"
            title = f"{mark} camera {searched.cameras[place]}"
            found = searched.source.read([place])[0]
            tiles.append(Tile(found, title, colour, framed=True))
        rows.append(tiles)
    caption = (
        f"Queries (left) and their nearest images by {distance} distance, without "
        "those of the person by the same camera; \N{CHECK MARK} green: the same "
        "person, \N{BALLOT X} red: another"
    )
    return Picture(caption, gallery(rows, largest=0.9))


def first_right(
    queries: PersonImages,
    searched: PersonImages,
    nearest: Int[np.ndarray, "queries k"],
) -> tuple[int, int] | None:
    """The first query (its row) with a right image among the nearest, and that image.

    None where no query has one.
    """
    for row, places in enumerate(nearest):
        for place in places:
            known = place >= 0
            if known and searched.identities[place] == queries.identities[row]:
                return row, int(place)
    return None


def alignment(
    first: UInt8[np.ndarray, "height width channels"],
    second: UInt8[np.ndarray, "height width channels"],
    first_stripes: Float[np.ndarray, "rows features"],
    second_stripes: Float[np.ndarray, "rows features"],
) -> Picture:
    """Two images, and lines between the stripes that the shortest path joins."""
    pair = (jnp.asarray(s[None]) for s in (first_stripes, second_stripes))
    distances = np.asarray(stripe_distances(*pair))[0, 0]
    figure = Figure(figsize=(figures.WIDTH, 3.6), layout="constrained")
    figure.patch.set_alpha(0)
    axis = figure.subplots()
    height, width = first.shape[:2]
    gap = 1.5 * width
    for left, image in ((0, first), (width + gap, second)):
        shown = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
        axis.imshow(
            shown, extent=(left, left + width, height, 0), interpolation="nearest"
        )
    rows, least = len(distances), distances.min()
    spread = max(distances.max() - least, 1e-12)
    for i, j in traced_path(distances):
        ends = ((i + 0.5) * height / rows, (j + 0.5) * height / rows)
        near = 1 - (distances[i, j] - least) / spread
        axis.plot(
            (width, width + gap),
            ends,
            color=RIGHT,
            alpha=0.15 + 0.85 * near,
            linewidth=1.5,
        )
    axis.set_xlim(0, 2 * width + gap)
    axis.set_ylim(height, 0)
    axis.set_axis_off()
    caption = (
        "The shortest path between the stripes of a query (left) and of an image of "
        "the same person: strong lines join stripes that are near each other"
    )
    return Picture(caption, figure)
