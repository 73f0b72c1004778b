"""Images of your own, one folder a class, for two CPU cores.

    python -m ddae_jax.main --config=configs/image_folder.py --config.data.folder=DIR

Data: DIR/train/CLASS/*.png and DIR/test/CLASS/*.png, or DIR/CLASS/*.png, of which a
fixed fifth of each class is for testing. Images are resized to SIZE pixels and their
centre is cropped; grey ones become RGB. The run and its report are called as DIR is.
Variants: `16`, `32` (the default), `64`, `128`: SIZE, and a network to fit; `test`,
or `64+test`: in seconds, on images of 8x8.
Hardware: two CPU cores, 3 GB. Expected time: pre-training at 32 pixels 10 to 30 minutes
(estimated: 0.85 s a step were measured while other work shared the cores), at 16 two
thirds of that, at 64 two to three times; the probe of 600 images a few minutes more.
Expected result: depends on the images; the probe's table has raw pixels and the network
untrained beside it. More steps help: --config.train.steps.
"""

from ddae_jax.settings import schema

# Side in pixels -> the UNet's levels, down to 8x8, and images of a step.
_SIZES = {
    "16": ((1, 2), 64),
    "32": ((1, 2, 2), 32),
    "64": ((1, 1, 2, 2), 16),
    "128": ((1, 1, 2, 2, 2), 8),
}


def get_config(variant: str = ""):
    schema.check_variant("image_folder", variant, _SIZES)
    size = variant if variant in _SIZES else "32"
    multipliers, batch_size = _SIZES[size]
    config = schema.default()
    config.name, config.variant = "image_folder", variant
    config.data.name = "image_folder"
    config.data.image_size = int(size)
    config.data.channels = 3  # whatever the files have
    config.sample.trajectories = config.sample.interpolations = 4
    config.network.channels = 32
    config.network.channel_multipliers = multipliers
    config.network.attention = (False,) * (len(multipliers) - 1) + (True,)  # at 8x8
    config.network.blocks = 1
    config.train.batch_size = batch_size
    config.train.steps = 2000
    config.train.learning_rate = 1e-3
    config.train.warmup_steps = 100
    config.train.ema_decay = 0.999
    config.train.checkpoint_every = 500
    config.train.sample_every = 500
    config.probe.classifier = "logistic"
    config.probe.held_out = 0.2
    config.fid.features = "classifier"  # Inception takes what these images may not be
    config.fid.test_images = True
    config.fid.count = 1000
    return config
