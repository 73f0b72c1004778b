"""Files of data sets in the formats that the readers take, written by tests."""

import pickle

import numpy as np
from PIL import Image

from ddae_jax.data import arrays, cifar_archive, person_synthetic


def encode_idx(array, type_code=8):
    """The bytes of an IDX file."""
    header = bytes([0, 0, type_code, array.ndim])
    sides = np.array(array.shape, ">u4").tobytes()
    return header + sides + array.astype(np.uint8).tobytes()


def write_cifar(folder, name, protocol=2, per_batch=4):
    """Writes an unpacked archive; returns the training images and labels."""
    archive = cifar_archive.ARCHIVES[name]
    folder = folder / archive.unpacked
    folder.mkdir()
    rng = np.random.default_rng(0)
    classes = 10 if name == "cifar10" else 100
    names = [f"class{number}".encode() for number in range(classes)]
    meta = {archive.names_key.encode(): names}
    (folder / archive.meta).write_bytes(pickle.dumps(meta, protocol))
    images, labels = [], []
    for batch in (*archive.batches["train"], *archive.batches["test"]):
        pixels = rng.integers(0, 256, (per_batch, 3072), dtype=np.uint8)
        chosen = rng.integers(0, classes, per_batch).tolist()
        content = {b"data": pixels, archive.label_key.encode(): chosen}
        (folder / batch).write_bytes(pickle.dumps(content, protocol))
        if batch in archive.batches["train"]:
            images.append(pixels)
            labels += chosen
    images = np.concatenate(images).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, labels


def save_image(path, size=(6, 6), mode="RGB", seed=0):
    """Writes random pixels; returns them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels, mode).save(path)
    return pixels


def write_fashion_mnist(folder):
    """Four IDX files of 60 training and 20 test images."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 60), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        files = {"images-idx3": images, "labels-idx1": np.arange(count) % 10}
        for name, array in files.items():
            content = encode_idx(array)
            (folder / f"{split}-{name}-ubyte").write_bytes(content)


def write_tiny_imagenet(folder, classes=20, per_class=20):
    """Its training and validation sets, with some grey files."""
    root = folder / "tiny-imagenet-200"
    lines = []
    for label, name in enumerate(f"n{number:02}" for number in range(classes)):
        for i in range(per_class):
            picture = root / "train" / name / "images" / f"{name}_{i}.JPEG"
            save_image(picture, (64, 64), seed=per_class * label + i)
        for i in range(4):
            file = f"val_{4 * label + i}.JPEG"
            picture = root / "val" / "images" / file
            save_image(picture, (64, 64), "L" if i else "RGB", 999 + i)
            lines.append(f"{file}\t{name}\t0\t0\t63\t63\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))


def write_image_folder(folder):
    """Three folders of classes, not split, of 30 images each; some are grey."""
    for label, name in enumerate(("ant", "bee", "cat")):
        for number in range(30):
            mode, seed = "L" if number % 7 == 0 else "RGB", 30 * label + number
            picture = folder / name / f"{number}.png"
            save_image(picture, (40, 33), mode, seed)


def write_arrays(folder, count=6, shape=(9, 7, 3)):
    """Both splits of the data set `arrays`, of two classes."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        images = random.integers(0, 256, (count, *shape), np.uint8)
        arrays.write(folder, split, images, np.arange(count) % 2, ("cat", "dog"))


CUHK03_TESTED = (((1, 2), (5, 1)), ((3, 1),))
PEOPLE = person_synthetic.People(
    training=6, testing=4, family=2, cameras=2, images_each=2, distractors=3
)
"""A synthetic set of persons that takes no time."""


def write_persons(folder, people=PEOPLE):
    """In the layout of Market1501, with images of no person that are to be dropped."""
    person_synthetic.write(folder, 8, people)
    junk = folder / "bounding_box_test" / "-1_c1s1_000001_00.png"
    Image.new("RGB", (8, 16)).save(junk)
    (junk.parent / "Thumbs.db").write_bytes(b"none")  # as in the published archive


def write_msmt17(folder, people=PEOPLE):
    """In the layout of MSMT17."""
    persons = folder / "persons"
    person_synthetic.write(persons, 8, people)
    for part, place, files in (
        ("train", "train", "bounding_box_train"),
        ("query", "test", "query"),
        ("gallery", "test", "bounding_box_test"),
    ):
        lines = []
        for number, path in enumerate(sorted((persons / files).iterdir())):
            identity, camera = path.name[:4], path.name[6]
            name = (
                f"{identity}/{identity}_{number:03d}_0{camera}_0303morning_0015_0.png"
            )
            target = folder / place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                raise FileExistsError(target)
            path.rename(target)
            lines.append(f"{name} {int(identity)}")
        (folder / f"list_{part}.txt").write_text("\n".join(lines) + "\n")


def cuhk03_pixels(kind, pair, person, number):
    """An image that tells where it belongs; its sides are uneven."""
    values = np.zeros((7, 4, 3), np.uint8)
    values[:] = kind * 100 + pair, person % 256, number
    values[0, -1] = 255
    return values


def write_cuhk03_mat(path, people=(2, 1, 1, 1, 1), tested=CUHK03_TESTED):
    """cuhk-03.mat as MATLAB 7.3 writes it: cells are references, and axes in the other
    order.

    Args:
      people: number of persons of each pair of cameras.
      tested: pairs and persons of each split.
    """
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        kept = file.create_group("#refs#")

        def keep(values):
            return kept.create_dataset(str(len(kept)), data=values).ref

        def cells(references):
            return np.array(references, h5py.ref_dtype)

        empty = keep(np.zeros(2, np.uint64))
        for kind, name in enumerate(("detected", "labeled")):
            tables = []
            for pair, count in enumerate(people, 1):
                table = np.full((10, count), empty, h5py.ref_dtype)
                for person in range(1, count + 1):
                    for number in (1, 3, 6):
                        pixels = cuhk03_pixels(kind, pair, person, number)
                        table[number - 1, person - 1] = keep(pixels.transpose(2, 1, 0))
                tables.append(keep(table))
            file[name] = cells([tables])
        file["testsets"] = cells([[keep(np.array(rows, float).T) for rows in tested]])
