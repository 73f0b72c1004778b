"""Accuracy, confusion matrix and mean IoU against scikit-learn and by hand."""

import numpy as np
import pytest
import sklearn.metrics

from ddae_jax.errors import UserError
from ddae_jax.metrics import classification


def ints(*values):
    return np.array(values, int)


def test_accuracy():
    assert classification.accuracy(ints(0, 1, 2, 1), ints(0, 1, 1, 1)) == 0.75


def test_confusion_matrix_and_iou_agree_with_scikit_learn():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, (3, 8, 8))
    predictions = np.where(
        generator.random(labels.shape) < 0.6,
        labels,
        generator.integers(0, 4, (3, 8, 8)),
    )
    matrix = classification.confusion_matrix(predictions, labels, 4)
    expected = sklearn.metrics.confusion_matrix(labels.ravel(), predictions.ravel())
    np.testing.assert_array_equal(matrix, expected)
    assert matrix[2, 1] == np.sum((labels == 2) & (predictions == 1))
    iou = sklearn.metrics.jaccard_score(
        labels.ravel(), predictions.ravel(), average=None
    )
    np.testing.assert_allclose(classification.intersection_over_union(matrix), iou)
    np.testing.assert_allclose(classification.mean_iou(matrix), iou.mean())

    batches = zip(predictions, labels, strict=True)
    parts = [classification.confusion_matrix(*batch, 4) for batch in batches]
    np.testing.assert_array_equal(sum(parts), matrix)


def test_ignored_labels_and_absent_classes_do_not_count():
    labels = np.array([0, 0, 1, 255], np.uint8)
    predictions = np.array([0, 1, 1, 3], np.uint8)
    matrix = classification.confusion_matrix(predictions, labels, 4, ignore=255)
    np.testing.assert_array_equal(matrix[:2, :2], [[1, 1], [0, 1]])
    assert matrix.sum() == 3
    assert classification.mean_iou(matrix) == 0.5
    assert np.isnan(classification.intersection_over_union(matrix)[2:]).all()


def test_unusable_input_is_refused_in_one_line():
    empty = np.zeros((2, 2), int)
    for wrong, message in [
        (lambda: classification.accuracy(ints(1), ints(1, 2)), "predictions .* labels"),
        (lambda: classification.accuracy(ints(), ints()), "no samples"),
        (
            lambda: classification.confusion_matrix(ints(3), ints(0), 3),
            "prediction 3 is",
        ),
        (lambda: classification.confusion_matrix(ints(0), ints(-1), 3), "label -1 is"),
        (lambda: classification.mean_iou(empty), "counts nothing"),
    ]:
        with pytest.raises(UserError, match=message) as raised:
            wrong()
        assert "\n" not in str(raised.value)
