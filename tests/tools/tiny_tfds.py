"""A small TFDS set, written as array_record without TensorFlow."""

import io
import pathlib

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def png(value, height=4, width=4):
    stream = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(stream, "PNG")
    stream.seek(0)
    return stream


class TinyPictures(tfds.core.GeneratorBasedBuilder):
    """Twelve images filled with their number, in two splits."""

    VERSION = tfds.core.Version("1.2.0")
    shape = (4, 4, 3)

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=self.shape),
                    "label": tfds.features.ClassLabel(names=["even", "odd"]),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(0, 8),
            "validation": self._generate_examples(8, 12),
        }

    def _generate_examples(self, start, stop):
        for number in range(start, stop):
            width = self.shape[1] or 4 + number
            picture = png(number, width=width)
            yield number, {"image": picture, "label": number % 2}


class TinyWidths(TinyPictures):
    """The same with images of many widths."""

    VERSION = tfds.core.Version("1.0.0")
    shape = (None, None, 3)


def write(folder: pathlib.Path) -> pathlib.Path:
    """Prepares tiny_pictures and tiny_widths; returns the folder."""
    for kind in (TinyPictures, TinyWidths):
        builder = kind(data_dir=folder, file_format="array_record")
        builder.download_and_prepare(file_format="array_record")
    return folder
