"""Fashion-MNIST, 28x28 padded to 32x32, with a UNet of 1.62 M parameters (DDPM).

    python -m ddae_jax.main --config=configs/fashion_mnist.py

Data: Debian's package dataset-fashion-mnist, or --config.data.folder with the four IDX
files, or --task=prepare.
Hardware: two CPU cores, 4 GB. Expected time: several hours on two cores (estimated).
Expected result: RESULTS.md has what was measured here. The official PyTorch code, 758
steps of this recipe, logistic regression on 5,000 images, t = 11: 81.7 % at out_2, its
best tap, 73.5 % untrained (measured with that code).
Variant `test`: the same in seconds.
"""

from ddae_jax.settings import schema


def get_config(variant: str = ""):
    schema.check_variant("fashion_mnist", variant, ())
    config = schema.default()
    config.name, config.variant = "fashion_mnist", variant
    config.data.name = "fashion_mnist"
    config.data.image_size = 32
    config.network.image_channels = 1
    config.sample.trajectories = config.sample.interpolations = 4
    config.network.channels = 32
    config.network.channel_multipliers = (1, 2, 2)
    config.network.attention = (False, True, False)
    config.network.blocks = 2
    config.train.batch_size = 128
    config.train.learning_rate = 4e-4
    config.train.warmup_steps = 100
    config.train.steps = 7580
    config.train.log_every = 20
    config.train.checkpoint_every = 379
    config.train.keep_every = 379
    config.train.sample_every = 1516
    config.fid.features = "classifier"  # Inception knows no grey clothes
    config.fid.test_images = True
    config.fid.count = 5000  # of the protocol's 50,000: two cores
    return config
