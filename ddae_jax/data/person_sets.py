"""Person re-identification sets in their published folder layouts.

market1501, dukemtmc and cuhk03 (the folders `labeled` and `detected` of CUHK03-NP) have

    bounding_box_train/0002_c1s1_000451_03.jpg    person 2, camera 1
    query/...
    bounding_box_test/...                         -1: dropped; 0: kept, a distractor

and msmt17 has train/, test/ (mask_train_v2/, mask_test_v2/ in its second version) and
lists of their files, list_train.txt, list_query.txt and list_gallery.txt. Published
counts of images (training, query, gallery): Market1501 12,936, 3,368, 15,913 without
-1; DukeMTMC-reID 16,522, 2,228, 17,661; CUHK03-NP 7,368 (detected 7,365), 1,400,
5,328 (5,332); MSMT17 30,248 (32,621 with its validation list), 11,659, 82,161.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable

from ddae_jax.data import images as image_ops
from ddae_jax.data import person_images, person_synthetic
from ddae_jax.data.image_folder import EXTENSIONS
from ddae_jax.data.person_images import PARTS, PersonFile, PersonImages
from ddae_jax.data.source import RESIDENT_BYTES, Source
from ddae_jax.errors import UserError
from ddae_jax.settings.fields import unknown

_JUNK = -1
_NAME = re.compile(r"(-?\d+)_c(\d+)")
_MSMT_NAME = re.compile(r"\d+_\d+_(\d+)_")
# One of these; the last is what a user's own folder may call it.
FOLDERS = {
    "train": ("bounding_box_train",),
    "query": ("query",),
    "gallery": ("bounding_box_test", "gallery"),
}
_MSMT_FOLDERS = (("train", "test"), ("mask_train_v2", "mask_test_v2"))
_MSMT_LISTS = {
    "train": "list_train.txt",
    "query": "list_query.txt",
    "gallery": "list_gallery.txt",
}


def load(
    name: str,
    part: str,
    *,
    folder: str | None,
    width: int | None,
    channels: int | None = None,
    resident_bytes: int = RESIDENT_BYTES,
    resize: str = image_ops.BICUBIC,
    everyone: bool = False,
    fields: tuple[str, str] = ("config.data.name", "config.data.folder"),
) -> PersonImages:
    """Returns one part of a set.

    Args:
      name: a key of SETS, or person_synthetic.NAME.
      part: of PARTS.
      folder: where the set lies; none for the synthetic set.
      width: of the images; their height is twice that. None: as they are.
      everyone: labels stand for the persons of all parts; else for those of the
        training, or of query and gallery.
      fields: where the user has named the set, and its folder, for errors.

    Raises:
      UserError: a folder or list that is missing or empty, a name that cannot be read;
        names field and file.
    """
    known = (person_synthetic.NAME, *SETS)
    if name not in known:
        raise UserError(unknown(fields[0], name, known))
    if not folder:
        if name == person_synthetic.NAME:
            return person_synthetic.part(
                part,
                width or person_synthetic.WIDTH,
                channels,
                resident_bytes,
                everyone,
            )
        raise UserError(f"{fields[1]}: set the folder that holds {name}")
    find = SETS.get(name, market_files)
    wanted = ("train",) if part == "train" else ("query", "gallery")
    wanted = PARTS if everyone else wanted
    try:
        found = {each: find(pathlib.Path(folder), each) for each in wanted}
    except UserError as error:
        raise UserError(f"{fields[1]}: {error}") from error
    identities = {file.identity for files in found.values() for file in files}
    return person_images.of_files(
        name,
        part,
        found[part],
        sorted(identities),
        width,
        channels,
        resident_bytes,
        resize,
    )


def as_source(name: str) -> Callable[..., Source]:
    """The set as one that denoisers are trained on: data.sources.LoadSplit.

    "test" is the gallery. The labels are persons; as none of the training is in the
    gallery, a classifier of them finds none there.
    """

    def load_split(split, *, image_size, **options):
        part = "train" if split == "train" else "gallery"
        found = load(name, part, width=image_size, everyone=True, **options)
        return dataclasses.replace(found.source, split=split)

    return load_split


def market_files(root: pathlib.Path, part: str) -> list[PersonFile]:
    """Lists a part of a set in the layout of Market1501, sorted by name.

    Raises:
      UserError: as `load`.
    """
    place = next((root / n for n in FOLDERS[part] if (root / n).is_dir()), None)
    if place is None:
        raise UserError(f"{root} has no folder {' or '.join(FOLDERS[part])}")
    paths = sorted(p for p in place.iterdir() if p.suffix.lower() in EXTENSIONS)
    found = [file for path in paths if (file := _of_name(path)).identity != _JUNK]
    if not found:
        raise UserError(f"{place} holds no images of persons")
    return found


def _of_name(path: pathlib.Path) -> PersonFile:
    match = _NAME.match(path.name)
    if match is None or int(match[1]) < _JUNK:
        raise UserError(
            f"{path}: the name is not IDENTITY_cCAMERA..., such as 0002_c1s1_000451.jpg"
        )
    return PersonFile(path, int(match[1]), int(match[2]))


def msmt17_files(root: pathlib.Path, part: str) -> list[PersonFile]:
    """Lists a part of MSMT17, in the order of its list; errors as `load`."""
    folders = next((f for f in _MSMT_FOLDERS if (root / f[0]).is_dir()), None)
    if folders is None:
        raise UserError(f"{root} has no folder train or mask_train_v2")
    path = root / _MSMT_LISTS[part]
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable list ({error})") from error
    place = root / folders[part != "train"]
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, identity = line.strip().rpartition(" ")
        match = _MSMT_NAME.match(pathlib.PurePosixPath(name).name)
        if match is None or not identity.isdecimal():
            raise UserError(
                f"{path}: line {number}: not FILE IDENTITY with a file such as "
                "0000/0000_000_01_0303morning_0015_0.jpg"
            )
        # 0 is a person there, elsewhere the distractors.
        found.append(PersonFile(place / name, int(identity) + 1, int(match[1])))
    if not found:
        raise UserError(f"{path}: an empty list")
    return found


SETS: dict[str, Callable[[pathlib.Path, str], list[PersonFile]]] = {
    "market1501": market_files,
    "dukemtmc": market_files,
    "cuhk03": market_files,
    "msmt17": msmt17_files,
}
"""Name in a config -> function that lists the files of a part in a folder."""
