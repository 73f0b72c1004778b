"""The sections of a config about weights: what comes in, and where it goes."""

from ml_collections import ConfigDict, config_dict


def import_section() -> ConfigDict:
    """Fields of the task import. Those at None are asked for where they are needed."""
    section = ConfigDict()
    section.path = ""  # .pth, .pt, .pkl or .safetensors
    section.family = ""  # a key of weights.families.FAMILIES; empty: from the tensors
    section.weights = "ema"  # ema or model: which, where the file has both
    section.process = ""  # a key of diffusion.PROCESSES; empty: the family's
    section.image_size = config_dict.placeholder(int)  # height and width in pixels
    section.heads = config_dict.placeholder(int)  # of attention
    section.head_channels = config_dict.placeholder(int)  # None: one head
    section.weight_normalization = config_dict.placeholder(bool)  # EDM2 E; C: False
    section.null_class = config_dict.placeholder(bool)  # U-ViT: last label is none
    section.time_scale = config_dict.placeholder(float)  # U-ViT: see models/uvit.py
    return section


def autoencoder_section() -> ConfigDict:
    """Fields of the autoencoder of a denoiser of latents."""
    section = ConfigDict()
    section.folder = ""  # where import put it; empty: WORKDIR/autoencoder
    section.scale = config_dict.placeholder(float)  # of latents; None: the VAE's own
    section.sample_posterior = True  # encode to a draw, as published; else to the mean
    section.batch_size = 64  # images in it at a time
    return section


def export_section() -> ConfigDict:
    """Fields of the task export."""
    section = ConfigDict()
    section.path = ""  # a new or empty folder
    return section
