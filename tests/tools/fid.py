"""A tiny feature network, and folders of images, for the tests of FID."""

import pathlib

import numpy as np
from PIL import Image

from ddae_jax.models.layer_chain import Layer, LayerChain
from ddae_jax.weights import layer_chain

WIDTH = 5


def tensors(channels: int = 1) -> dict[str, np.ndarray]:
    """Random parameters of the tiny network."""
    generator = np.random.default_rng(3)
    shapes = {
        "conv/kernel": (3, 3, channels, 4),
        "conv/bias": (4,),
        "last/kernel": (4, WIDTH),
    }
    return {
        name: generator.standard_normal(shape).astype("f")
        for name, shape in shapes.items()
    }


def write_network(
    folder: pathlib.Path, image_shape: tuple[int, int, int] = (8, 8, 1)
) -> layer_chain.ChainFile:
    """Writes the tiny network in the documented format."""
    layers = (
        Layer("conv", "conv", stride=2),
        Layer("relu"),
        Layer("mean"),
        Layer("dense", "last"),
    )
    chain = LayerChain(layers, image_shape)
    layer_chain.write(folder, chain, tensors(image_shape[-1]), "tiny network", {})
    return layer_chain.read(folder)


def images(
    count: int, seed: int, shape: tuple[int, int, int] = (8, 8, 1)
) -> np.ndarray:
    """Random uint8 images, of other contrast for another seed."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256 - 40 * seed, (count, *shape), dtype=np.uint8)


def write_folder(folder: pathlib.Path, pixels: np.ndarray) -> pathlib.Path:
    """Writes one PNG an image."""
    folder.mkdir(parents=True)
    for number, image in enumerate(pixels):
        squeezed = image[..., 0] if image.shape[-1] == 1 else image
        Image.fromarray(squeezed).save(folder / f"{number:04d}.png")
    return folder
