"""Distances of samples."""

import dataclasses

from ddae_jax.errors import UserError
from ddae_jax.settings.fields import setting
from ddae_jax.settings.limits import BATCH, COUNT, STEPS


@dataclasses.dataclass(frozen=True)
class FidSettings:
    """What the task fid measures."""

    output: str = setting(
        "fid",
        "names the files: fid or fid_NAME",
        pattern=r"fid(_[A-Za-z0-9_.-]{1,64})?",
    )
    count: int = setting(
        50_000, "samples to draw; as published", least=2, most=COUNT, test=24
    )
    samples: str = setting("", "folder of images or .npz (arr_0); empty: the sampler's")
    keep_samples: bool = setting(False, "also write what is drawn, as PNG files")
    reference: str = setting("", "images or statistics; empty: the training set")
    test_images: bool = setting(
        False, "also measure the data set's test images, as an anchor"
    )
    features: str = setting("", "classifier, or a folder; empty: Inception")
    inception: str = setting(
        "", "pt_inception-2015-12-05-6726825d.pth; empty: as in the cache"
    )
    resize: str = setting(
        "pytorch",
        "how Inception gets its 299 pixels",
        choices=("pytorch", "tf1", "clean"),
    )
    cache: str = setting("", "converted weights, statistics; empty: ~/.cache/ddae_jax")
    batch_size: int = setting(
        64,
        "of images from files and data sets, over all devices",
        least=1,
        most=BATCH,
        test=64,
    )
    precision_count: int = setting(
        10_000,
        "images of both for precision, recall, KID; 0: none",
        least=0,
        most=COUNT,
        test=24,
    )
    neighbours: int = setting(3, "of precision and recall", least=1, most=1000)
    kid_subsets: int = setting(100, "of KID", least=1, most=100_000, test=4)
    kid_subset_size: int = setting(1000, "at most", least=2, most=BATCH, test=12)
    inception_splits: int = setting(
        10, "parts of the Inception score; 0: no score", least=0, most=1000, test=2
    )
    classifier_steps: int = setting(
        1000, "of features=classifier", least=1, most=STEPS, test=6
    )
    classifier_seed: int = setting(0, "likewise", least=0, most=2**31 - 1)

    def __post_init__(self):
        if self.features and self.inception:
            raise UserError(
                f"fid.inception: not used, since fid.features is {self.features!r}; "
                'set fid.features="" for Inception'
            )
