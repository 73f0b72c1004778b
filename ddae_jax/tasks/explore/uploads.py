"""The user's own images: read within bounds, and the last few kept."""

import collections
import io
import warnings

from PIL import Image, UnidentifiedImageError

from ddae_jax.data import image_files
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.experiment.trained import Trained
from ddae_jax.tasks.explore import passes

MOST_BYTES = 32 * 2**20
MOST_PIXELS = 50_000_000
_KEPT = 32
_WHAT = "your image"
# These Pillow has drawn by another program.
_REFUSED = ("EPS", "WMF")


class Uploads:
    """Images by the number under which the page asks for them."""

    def __init__(self, experiment: Experiment, trained: Trained):
        self._shape, data = trained.seen_shape, experiment.settings.data
        self._enlarge = image_files.enlarges(data.name)
        self._resize = data.resize
        self._kept: collections.OrderedDict[int, passes.Image] = (
            collections.OrderedDict()
        )
        self._count = 0

    def add(self, content: bytes) -> int:
        """Reads an image file, brings it to the network's shape, and keeps it.

        Raises:
          UserError: it cannot be read, has too many pixels, or no shape that fits.
        """
        image_files.check_channels("--task=explore", self._shape[-1])
        _check_header(content)
        image = image_files.read(
            content, self._shape, self._enlarge, self._resize, where=_WHAT
        )
        self._count += 1
        self._kept[self._count] = image
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return self._count

    def get(self, number: int) -> passes.Image:
        """The image of a number.

        Raises:
          UserError: it is not kept any more.
        """
        if number not in self._kept:
            raise UserError("that image is not kept any more; choose it again")
        return self._kept[number]


def _check_header(content: bytes) -> None:
    """Looks at size and format before memory is taken for the pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                (width, height), kind = image.size, image.format
    except UnidentifiedImageError as error:
        raise UserError(f"{_WHAT}: not a readable image") from error
    except Exception as error:  # each format has its own ways to be damaged
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{_WHAT}: not a readable image ({reason})") from error
    if kind in _REFUSED:
        raise UserError(f"{_WHAT}: {kind} is not read; save it as PNG")
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{_WHAT}: {width}x{height} pixels; at most {MOST_PIXELS // 10**6} million "
            "are read"
        )
