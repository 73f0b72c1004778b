"""Writes the EMA weights as a folder for a model hub: weights, config and card."""

import json
import pathlib

import flax.linen as nn
import jax
from absl import logging
from ml_collections import ConfigDict

from ddae_jax.errors import UserError
from ddae_jax.experiment import autoencoder, common
from ddae_jax.runtime import parallel
from ddae_jax.weights import families, folder, published

# Sections of the config that rebuild the denoiser and its sampler.
SECTIONS = ("network", "process", "sampler", "dtype", "autoencoder")

_LOADING = """```python
import ddae_jax
model = ddae_jax.load("{folder}")
images = ...  # uint8 or floats in [-1, 1], of shape [n, {shape}]
features = model.features(images, tap="{tap}", noise_level={noise_level:.3g})
samples = model.sample(16)
```"""
_PUBLISHED = """In PyTorch, with the published code ({code}):

```python
from safetensors.torch import load_file
network = {constructor}
network.load_state_dict(load_file("{folder}/{file}"))
```"""


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Writes model.safetensors, config.json, data.json and README.md; of a denoiser of
    latents, also the folder autoencoder.

    config.export.format says how the tensors are named and laid out: "flax" as ours,
    "official" as in the state dict that the published PyTorch code loads strictly.
    `ddae_jax.load` and the task import read either.

    Raises:
      UserError: no checkpoint; config.export.path is not given, or has files that are
        not of an earlier export; the network has no published form.
    """
    workdir = pathlib.Path(workdir)
    target = _target(config.export.path)
    trained = common.restore_ema(config, workdir)
    params = parallel.on_host(trained.params)
    of_autoencoder = parallel.on_host(trained.autoencoder)
    if jax.process_index() != 0:
        return
    official = config.export.format == "official"
    network = trained.denoiser.network
    if official:
        families.of_network(network)  # an error, if any, before anything is written
    target.mkdir(parents=True, exist_ok=True)
    _write(target, official, network, params, trained.image_shape)
    everything = config.to_dict()
    everything["autoencoder"]["folder"] = ""  # it lies beside
    common.write_json(target, "config.json", {key: everything[key] for key in SECTIONS})
    data = common.read_json(workdir, "data.json") | {"step": trained.step}
    common.write_json(target, "data.json", data)
    if trained.latents is not None:
        beside, latents = target / autoencoder.NAME, trained.latents
        beside.mkdir(exist_ok=True)
        shape = latents.image_shape
        _write(beside, official, latents.autoencoder, of_autoencoder, shape)
        description = common.read_json(autoencoder.find(config, workdir), "config.json")
        common.write_json(beside, "config.json", description)
    card = _card(config, workdir, target, data, trained)
    (target / "README.md").write_text(card)
    logging.info("exported step %d to %s", trained.step, target)


def _write(
    target: pathlib.Path,
    official: bool,
    network: nn.Module,
    params: dict,
    image_shape: tuple[int, int, int],
) -> None:
    if official:
        folder.write_published(target, network, params, image_shape)
    else:
        folder.write_parameters(target, params)


def _target(given: str) -> pathlib.Path:
    if not given:
        raise UserError("config.export.path: name a folder for the weights")
    target = pathlib.Path(given)
    if target.exists() and not target.is_dir():
        raise UserError(f"config.export.path: {given} is a file, not a folder")
    if (
        target.is_dir()
        and any(target.iterdir())
        and not (target / folder.FILE).exists()
    ):
        raise UserError(
            f"config.export.path: {given} holds other files: name a new folder"
        )
    return target


def _card(
    config: ConfigDict,
    workdir: pathlib.Path,
    target: pathlib.Path,
    data: dict,
    trained: common.Trained,
) -> str:
    """The model card, in Markdown, with the hub's header."""
    denoiser, latents = trained.denoiser, trained.latents
    count = denoiser.parameter_count(data["image_shape"])
    image_shape = data["image_shape"] if latents is None else latents.image_shape
    shape = ", ".join(map(str, image_shape))
    images = data["train_images"]
    rows = {
        "network": config.network.name,
        "process": config.process.name,
        "parameters": f"{count:,}",
        "images": " x ".join(map(str, image_shape)),
    }
    if images is None:
        rows["imported from"] = data["name"]
    else:
        rows["data"] = f"{data['name']}, {images:,} training images"
    rows["optimiser steps"] = f"{data['step']:,}"
    taps = list(denoiser.network.tap_paths())
    tap, noise_level = taps[len(taps) // 2], 0.1
    chosen = _measured(workdir, "probe.json", data["step"]).get("chosen") or {}
    if chosen:
        probe = common.read_json(workdir, "probe.json")
        tap, noise_level = chosen["tap"], chosen["noise_level"]
        rows["linear probe"] = (
            f"{100 * chosen['test']:.2f} % on the test images of {probe['data']} (tap "
            f"{tap}, noise level {noise_level:.3g}, chosen on held-out images)"
        )
    measured = _measured(workdir, "fid.json", data["step"])
    if "fid" in measured:
        rows[measured["distance"]] = (
            f"{measured['fid']:.2f} ({measured['protocol']['sample_count']:,} samples, "
            f"features of {measured['features']})"
        )
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    loading = _LOADING.format(
        folder=target.name, shape=shape, tap=tap, noise_level=noise_level
    )
    loading += _in_pytorch(config, target.name, trained)
    return (
        "---\nlibrary_name: ddae_jax\ntags:\n- diffusion\n- self-supervised\n---\n\n"
        f"# {config.name}\n\nA denoising diffusion autoencoder: it draws images, and "
        "its intermediate activations are features.\nThe weights are the moving "
        f"average of training.\n\n|  |  |\n|---|---|\n{table}\n\n{loading}\n\n"
        f"Taps: {', '.join(taps)}.\n"
    )


def _in_pytorch(config: ConfigDict, name: str, trained: common.Trained) -> str:
    """How the published code loads the tensors, where they are named as there."""
    if config.export.format != "official":
        return ""
    parts = [(trained.denoiser.network, trained.image_shape, folder.FILE)]
    if trained.latents is not None:
        file = f"{autoencoder.NAME}/{folder.FILE}"
        parts.append((trained.latents.autoencoder, trained.latents.image_shape, file))
    text = ""
    for network, image_shape, file in parts:
        loader = published.published_class(network, image_shape)
        text += "\n\n" + _PUBLISHED.format(
            code=loader.code, constructor=loader, folder=name, file=file
        )
    return text


def _measured(workdir: pathlib.Path, name: str, step: int) -> dict:
    """What a task measured on the exported checkpoint, or nothing."""
    try:
        content = common.read_json(workdir, name)
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return content if content.get("step") == step else {}
