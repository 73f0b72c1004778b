"""What is known of the user's images already: those in folders named after classes."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def of_folders(
    files: Sequence[str], class_names: Sequence[str]
) -> Int[np.ndarray, "images"] | None:
    """The class of each image, where all lie in folders that are named so.

    Args:
      files: paths below the folder that the user named.

    Returns None where one lies elsewhere.
    """
    numbers = {name: label for label, name in enumerate(class_names)}
    folders = [file.rpartition("/")[0].rpartition("/")[2] for file in files]
    if not all(folder in numbers for folder in folders):
        return None
    return np.array([numbers[folder] for folder in folders])
