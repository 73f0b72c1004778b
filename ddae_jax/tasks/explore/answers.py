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


def of_view(explorer: Explorer, view: Explored, level: int) -> dict[str, Any]:
    """All that changes with image, noise level and tap. Names are as they are: the
    script puts them in as text."""
    references = explorer.references
    images = references.source.read(view.nearest.indices[0])
    return {
        "noise_level": explorer.levels[level].noise_level,
        "noisy": png(view.noisy),
        "denoised": png(view.denoised),
        "maps": {
            tap: {
                "size": "{}x{}".format(*found.clusters.shape),
                "colours": png(_bytes(found.colours)),
                "clusters": png(_bytes(pictures.paint(found.clusters))),
            }
            for tap, found in view.maps.items()
        },
        "neighbours": [
            {"image": png(image), "name": references.names[index], "cosine": cosine}
            for image, index, cosine in zip(
                images,
                view.nearest.indices[0].tolist(),
                view.nearest.similarities[0].tolist(),
                strict=True,
            )
        ],
        "classes": _classes(explorer, view),
    }


def _classes(explorer: Explorer, view: Explored) -> list[dict[str, Any]]:
    """The most probable classes, the best first; none without a head."""
    if view.probabilities is None:
        return []
    names = explorer.predictor.head.class_names
    order = np.argsort(-view.probabilities, kind="stable")[:_CLASSES]
    return [
        {"name": names[label], "probability": float(view.probabilities[label])}
        for label in order
    ]


def _bytes(colours):
    return np.round(255 * colours).astype(np.uint8)
