"""Small files of the formats that the commands of README.md and docs name."""

import pathlib
import shutil

import numpy as np
import torch

from tests.tools import data_files, golden_values, inception_state, torch_unet
from tests.tools import fid as fid_tools


def write(folder: pathlib.Path) -> None:
    """Writes all of them into an empty folder, as somebody who has them would."""
    network, other = torch_unet.UNet(), torch_unet.UNet()
    torch.save(
        torch_unet.official_checkpoint(network, other), folder / "model_1999.pth"
    )
    _save_torch(
        golden_values.state(golden_values.load("dit_small")[0]),
        folder,
        "DiT-XL-2-256x256.pt",
    )
    vae = golden_values.write_weights(folder, "vae_small")
    vae.rename(folder / "sd-vae-ft-mse.safetensors")
    resnet = inception_state.inception_state(golden_values.load("resnet_small")[0])
    _save_torch(resnet, folder, "resnet_small.pth")
    fid_tools.write_network(folder / "inception", (8, 8, 3))
    (folder / "cifar10").mkdir()
    data_files.write_cifar(folder / "cifar10", "cifar10", per_batch=100)
    data_files.write_image_folder(folder / "images")
    for number in range(5):
        data_files.save_image(folder / "photos" / f"{number}.png", (30, 20))
    _write_persons(folder)


def _save_torch(state: dict[str, np.ndarray], folder: pathlib.Path, name: str) -> None:
    import torch

    torch.save(
        {key: torch.tensor(array) for key, array in state.items()}, folder / name
    )


def _write_persons(folder: pathlib.Path) -> None:
    """Market1501, CUHK03 as it is published, and somebody's own query and gallery."""
    data_files.write_persons(folder / "persons")
    shutil.copytree(folder / "persons" / "query", folder / "MINE" / "query")
    shutil.copytree(
        folder / "persons" / "bounding_box_test", folder / "MINE" / "gallery"
    )
    (folder / "cuhk03_release").mkdir()
    data_files.write_cuhk03_mat(folder / "cuhk03_release" / "cuhk-03.mat")
