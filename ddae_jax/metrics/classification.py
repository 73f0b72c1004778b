"""Accuracy, confusion matrix and mean intersection over union, on the host."""

import numpy as np
from jaxtyping import Float, Int, Integer

from ddae_jax.errors import UserError


def accuracy(
    predictions: Integer[np.ndarray, "..."], labels: Integer[np.ndarray, "..."]
) -> float:
    """Share of predictions that equal the labels, in [0, 1].

    Raises:
      UserError: the shapes differ, or there is nothing to compare.
    """
    predictions, labels = _same_shape(predictions, labels)
    if labels.size == 0:
        raise UserError("accuracy of no samples")
    return float(np.mean(predictions == labels))


def confusion_matrix(
    predictions: Integer[np.ndarray, "..."],
    labels: Integer[np.ndarray, "..."],
    classes: int,
    ignore: int | None = None,
) -> Int[np.ndarray, "classes classes"]:
    """Counts of (label, prediction): rows are labels. Matrices of batches add up.

    Args:
      predictions: classes in 0..classes-1, of images or of pixels.
      labels: as `predictions`.
      classes: number of classes.
      ignore: label that does not count, such as 255 in segmentation masks.

    Raises:
      UserError: the shapes differ, or a class is out of range.
    """
    predictions, labels = _same_shape(predictions, labels)
    if ignore is not None:
        kept = labels != ignore
        predictions, labels = predictions[kept], labels[kept]
    for name, found in (("prediction", predictions), ("label", labels)):
        bad = found[(found < 0) | (found >= classes)]
        if bad.size:
            raise UserError(f"{name} {bad[0]} is outside 0..{classes - 1}")
    pairs = labels.ravel().astype(np.int64) * classes + predictions.ravel()
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def intersection_over_union(
    confusion: Int[np.ndarray, "classes classes"],
) -> Float[np.ndarray, "classes"]:
    """IoU of each class in [0, 1]; NaN for a class with no label and no prediction."""
    hits = np.diagonal(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - hits
    return np.divide(hits, union, out=np.full_like(hits, np.nan), where=union > 0)


def mean_iou(confusion: Int[np.ndarray, "classes classes"]) -> float:
    """Mean IoU in [0, 1] over the classes that occur.

    Raises:
      UserError: the matrix counts nothing.
    """
    if not confusion.sum():
        raise UserError("mean IoU of a confusion matrix that counts nothing")
    return float(np.nanmean(intersection_over_union(confusion)))


def _same_shape(predictions, labels):
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape:
        raise UserError(f"predictions {predictions.shape}, labels {labels.shape}")
    return predictions, labels
