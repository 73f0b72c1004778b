"""What the page is sent: plain values and small PNG files, as JSON can hold them."""

import base64
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ddae_jax.report import grids, pictures
from ddae_jax.tasks.explore.explorer import Explored, Explorer

_CLASSES = 10  # of those, the most probable


def png(image: UInt8[np.ndarray, "height width channels"]) -> str:
    """An image as a data URL."""
    content = base64.b64encode(grids.png(image)).decode("ascii")
    return f"data:image/png;base64,{content}"


def of_explored(explorer: Explorer, shown: Explored, level: int) -> dict[str, Any]:
    """All that changes with image, noise level and tap. Names are as they are: the
    script puts them in as text."""
    references = explorer.references
    images = references.source.read(shown.nearest.indices[0])
    return {
        "noise_level": explorer.levels[level].noise_level,
        "noisy": png(shown.noisy),
        "denoised": png(shown.denoised),
        "maps": {
            tap: {
                "size": "{}x{}".format(*found.clusters.shape),
                "colours": png(_bytes(found.colours)),
                "clusters": png(_bytes(pictures.paint(found.clusters))),
            }
            for tap, found in shown.maps.items()
        },
        "neighbours": [
            {"image": png(image), "name": references.names[index], "cosine": cosine}
            for image, index, cosine in zip(
                images,
                shown.nearest.indices[0].tolist(),
                shown.nearest.similarities[0].tolist(),
                strict=True,
            )
        ],
        "classes": _classes(explorer, shown),
    }


def _classes(explorer: Explorer, shown: Explored) -> list[dict[str, Any]]:
    """The most probable classes, the best first; none without a head."""
    if shown.probabilities is None:
        return []
    names = explorer.predictor.head.class_names
    order = np.argsort(-shown.probabilities, kind="stable")[:_CLASSES]
    return [
        {"name": names[label], "probability": float(shown.probabilities[label])}
        for label in order
    ]


def _bytes(colours):
    return np.round(255 * colours).astype(np.uint8)
