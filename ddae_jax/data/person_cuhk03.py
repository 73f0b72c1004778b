"""CUHK03's older protocol: 20 splits, as folders in the layout of Market1501.

    python -m ddae_jax.data.person_cuhk03 IMAGES SPLITS.json NUMBER TARGET

IMAGES and SPLITS.json are what `person_cuhk03_mat` makes of the published MATLAB file,
or what public code made of it in the same form: images named
PAIR_PERSON_VIEW_NUMBER.png (camera pair 1 to 5, view 1 or 2, number 1 to 10) in
images_labeled and images_detected, and 20 test sets of 100 persons in
splits_classic_labeled.json and splits_classic_detected.json: a list of objects with
"train" and "gallery", lists of [file, person, camera]. TARGET gets links to the images
of one split; queries are those of view 1, the gallery those of view 2, of which the
protocol takes one image a person: config.reid.single_shot. The newer protocol's
folders, CUHK03-NP/labeled and CUHK03-NP/detected, are read as they are.
"""

import json
import pathlib
import re
import sys
from collections.abc import Sequence

from ddae_jax.errors import UserError

SPLITS = 20
_NAME = re.compile(r"([1-9]\d*)_(\d{1,4})_([12])_(\d+)\.(png|jpg)")


def market_name(name: str) -> tuple[str, int]:
    """Name of an extracted image in Market1501's layout, and its view, 1 or 2.

    Raises:
      UserError: the name is not of the form above.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(
            f"{name}: the name is not PAIR_PERSON_VIEW_NUMBER.png, such as "
            "1_001_1_01.png"
        )
    pair, person, view, number = map(int, match.groups()[:4])
    camera = 2 * (pair - 1) + view
    return f"{pair * 10_000 + person}_c{camera}_{number:02d}.{match[5]}", view


def write_split(
    images: pathlib.Path, splits: pathlib.Path, number: int, target: pathlib.Path
) -> None:
    """Links the images of one split into folders below `target`.

    Args:
      images: folder of the extracted images.
      number: of the split, 1 to 20.

    Raises:
      UserError: files that are missing or damaged, a number that there is not, a
        target that is there already.
    """
    try:
        found = json.loads(splits.read_text())
        names = {
            part: [pathlib.PurePath(row[0]).name for row in found[number - 1][part]]
            for part in ("train", "gallery")
        }
    except IndexError as error:
        raise UserError(f"{splits}: there is no split {number}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{splits}: not a list of splits ({error})") from error
    if number < 1:
        raise UserError(f"{splits}: splits are numbered from 1, not {number}")
    if target.exists():
        raise UserError(f"{target}: is there already")
    links = {}
    for part, members in names.items():
        for name in members:
            ours, view = market_name(name)
            place = "query" if view == 1 else "bounding_box_test"
            if part == "train":
                place = "bounding_box_train"
            if not (images / name).is_file():
                raise UserError(f"{images / name}: named in {splits}, not there")
            links[f"{place}/{ours}"] = (images / name).resolve()
    for link, image in links.items():
        path = target / link
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(image)


def main(arguments: Sequence[str]) -> None:
    """The command line above."""
    if len(arguments) != 4 or not arguments[2].isdecimal():
        raise SystemExit(
            "usage: python -m ddae_jax.data.person_cuhk03 IMAGES SPLITS.json NUMBER "
            "TARGET"
        )
    images, splits, number, target = arguments
    try:
        write_split(
            pathlib.Path(images),
            pathlib.Path(splits),
            int(number),
            pathlib.Path(target),
        )
    except UserError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
