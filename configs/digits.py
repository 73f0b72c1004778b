"""Embedded digits (8x8, 1297 training images): the whole story in minutes on a CPU.

python -m ddae_jax.main --config=configs/digits.py
"""

from ddae_jax import config as config_lib


def get_config(variant: str = ""):
    config = config_lib.default()
    config.name, config.variant = "digits", variant
    config.data.name = "digits"
    config.network.image_channels = 1
    config.network.channels = 32
    config.network.channel_multipliers = (1, 2)
    config.network.attention = (False, True)
    config.network.blocks = 1
    config.train.steps = 1000
    config.tasks = ("pretrain", "sample")
    return config
