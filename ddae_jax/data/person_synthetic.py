"""A small synthetic set of pedestrians: no photographs, and no result for photographs.

A person is a stack of bands of clothing. Persons come in families that wear the same
colours in another order, so that what is where counts and not how much of it there is.
Each camera has its own light, contrast and background; its detector cuts bodies off at
the top or the bottom, so that a row of one image lies elsewhere on the body than the
same row of another; things stand in front of some. All is a function of (seed, person,
camera, number of the image).
"""

import colorsys
import dataclasses
import pathlib

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from ddae_jax.data import source as data_source
from ddae_jax.data.person_images import PersonImages
from ddae_jax.data.source import RESIDENT_BYTES

NAME = "synthetic_people"
WIDTH = 32
_BANDS = 6  # of clothing, from the shoulders to the feet
_PALETTE = 10
_HEAD = 0.16  # of the body's height


@dataclasses.dataclass(frozen=True)
class People:
    """What the set is made of.

    Attributes:
      seed: of everything.
      training: persons of the training part.
      testing: persons of query and gallery.
      family: persons who wear the same colours.
      cameras: that see every person.
      images_each: of each person by each camera; in the test part, one of them is a
        query.
      distractors: persons of one image in the gallery, whom no query asks for.
    """

    seed: int = 0
    training: int = 96
    testing: int = 64
    family: int = 4
    cameras: int = 4
    images_each: int = 3
    distractors: int = 64


PEOPLE = People()
"""The set that the name NAME stands for."""


def part(
    name: str,
    width: int = WIDTH,
    channels: int | None = None,
    resident_bytes: int = RESIDENT_BYTES,
    everyone: bool = False,
    people: People = PEOPLE,
) -> PersonImages:
    """Returns "train", "query" or "gallery"; the arguments are those of
    `person_sets.load`."""
    rows = _rows(name, people)
    numbers = [_identity(people, person) for person, _, _ in rows]
    parts = ("train", "gallery") if everyone else (name,)
    known = sorted(
        {_identity(people, p) for one in parts for p, _, _ in _rows(one, people)}
    )
    if name == "query" and people.distractors and not everyone:
        known = [0, *known]  # as the gallery has them
    source = data_source.from_arrays(
        NAME,
        name,
        _images(name, width, people),
        np.searchsorted(known, numbers),
        [f"{identity:04d}" for identity in known],
        None,
        channels,
        resident_bytes,
    )
    return PersonImages(
        source,
        np.array(numbers, np.int64),
        np.array([camera + 1 for _, camera, _ in rows], np.int64),
        [file_name(people, *row) for row in rows],
    )


def _images(name: str, width: int, people: People) -> np.ndarray:
    return np.stack([draw(people, *row, width) for row in _rows(name, people)])


def _rows(name: str, people: People) -> list[tuple[int, int, int]]:
    """(person, camera, number) of each image of a part."""
    first, count = (
        (0, people.training) if name == "train" else (people.training, people.testing)
    )
    numbers = {
        "train": range(people.images_each),
        "query": range(1),
        "gallery": range(1, people.images_each),
    }[name]
    rows = [
        (person, camera, number)
        for person in range(first, first + count)
        for camera in range(people.cameras)
        for number in numbers
    ]
    if name == "gallery":
        start = people.training + people.testing
        rows += [
            (person, person % people.cameras, 0)
            for person in range(start, start + people.distractors)
        ]
    return rows


def _identity(people: People, person: int) -> int:
    return person + 1 if person < people.training + people.testing else 0


def file_name(people: People, person: int, camera: int, number: int) -> str:
    """Name of an image in the layout of Market1501."""
    serial = person * people.images_each + number
    return f"{_identity(people, person):04d}_c{camera + 1}s1_{serial:06d}_00.png"


def write(
    folder: str | pathlib.Path, width: int = WIDTH, people: People = PEOPLE
) -> None:
    """Writes the set in the layout of Market1501: folders of PNG files."""
    folders = {
        "train": "bounding_box_train",
        "query": "query",
        "gallery": "bounding_box_test",
    }
    for name, place in folders.items():
        target = pathlib.Path(folder) / place
        target.mkdir(parents=True, exist_ok=True)
        images = _images(name, width, people)
        for row, image in zip(_rows(name, people), images, strict=True):
            Image.fromarray(image).save(target / file_name(people, *row))


def _generator(*numbers: int) -> np.random.Generator:
    return np.random.default_rng(numbers)


def _clothes(people: People, person: int) -> tuple[np.ndarray, np.ndarray, float]:
    """(colour and second colour of each band, stripes of each band, girth)."""
    family = _generator(people.seed, 1, person // people.family)
    hues = family.permutation(_PALETTE)[:_BANDS]
    shades = family.uniform(0.35, 0.95, _BANDS)
    own = _generator(people.seed, 2, person)
    order = own.permutation(_BANDS)
    colours = np.array(
        [
            colorsys.hsv_to_rgb(hues[band] / _PALETTE, 0.75, shades[band])
            for band in order
        ]
    )
    stripes = own.integers(0, 3, _BANDS)
    return colours, stripes, own.uniform(0.85, 1.15)


def draw(
    people: People, person: int, camera: int, number: int, width: int = WIDTH
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws one image, twice as high as wide."""
    height = 2 * width
    rng = _generator(people.seed, 3, person, camera, number)
    y = ((np.arange(height) + 0.5) / height)[:, None]
    x = ((np.arange(width) + 0.5) / width)[None, :]
    image = _background(people, camera, rng, y, x)
    # The detector's box: where the body begins and ends in it.
    top, bottom = rng.uniform(-0.25, 0.2), rng.uniform(0.85, 1.3)
    body = (y - top) / (bottom - top)
    centre = 0.5 + rng.uniform(-0.08, 0.08)
    colours, stripes, girth = _clothes(people, person)
    girth = girth * rng.uniform(0.9, 1.1)
    band = np.clip((body - _HEAD) / (1 - _HEAD) * _BANDS, 0, _BANDS - 1e-6)
    which = band.astype(int)[:, 0]
    # Stripes of clothing, across or along: a darker colour in half of a band.
    across = (stripes[which] == 1)[:, None] & ((band * 4).astype(int) % 2 == 1)
    along = (stripes[which] == 2)[:, None] & (((x - centre) * 10 % 1) > 0.5)
    cloth = colours[which][:, None, :] * np.where(across | along, 0.55, 1)[..., None]
    half = np.where(body < 0.55, 0.24, 0.18) * girth
    clothed = (np.abs(x - centre) < half) & (body >= _HEAD) & (body <= 1)
    legs = (body > 0.62) & (np.abs(x - centre) < rng.uniform(0.0, 0.06))
    image = np.where((clothed & ~legs)[..., None], cloth, image)
    head = ((x - centre) / 0.13) ** 2 + ((body - 0.09) / 0.085) ** 2 < 1
    image = np.where(head[..., None], [0.8, 0.62, 0.5], image)
    image = _occluded(rng, image, y, x)
    image = _seen(people, camera, rng, image)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)


def _background(people, camera, rng, y, x) -> Float[np.ndarray, "height width 3"]:
    own = _generator(people.seed, 4, camera)
    ground, wall = own.uniform(0.25, 0.75, (2, 3))
    horizon = own.uniform(0.3, 0.7) + rng.uniform(-0.1, 0.1)
    tiles = 0.06 * np.sin(2 * np.pi * (x * own.integers(2, 5) + rng.uniform()))
    return np.where((y > horizon)[..., None], ground, wall) + tiles[..., None]


def _occluded(rng, image, y, x) -> Float[np.ndarray, "height width 3"]:
    """In one of three images something stands in front of the body."""
    if rng.uniform() > 1 / 3:
        return image
    left, wide = rng.uniform(0, 0.7), rng.uniform(0.2, 0.5)
    top, high = rng.uniform(0.1, 0.7), rng.uniform(0.15, 0.35)
    hidden = (x > left) & (x < left + wide) & (y > top) & (y < top + high)
    return np.where(hidden[..., None], rng.uniform(0.1, 0.9, 3), image)


def _seen(people, camera, rng, image) -> Float[np.ndarray, "height width 3"]:
    """The camera's colours and its noise."""
    own = _generator(people.seed, 5, camera)
    gains, gamma = own.uniform(0.55, 1.25, 3), own.uniform(0.7, 1.5)
    mix = np.eye(3) + own.uniform(-0.12, 0.12, (3, 3))
    light = rng.uniform(0.85, 1.15)
    image = np.clip(image, 0, 1) ** gamma @ mix * gains * light
    return image + rng.normal(0, 0.03, image.shape)
