"""DDAE++ and its rivals at a size for two CPU cores: Fashion-MNIST at 16x16.

    python -m ddae_jax.main --config=configs/fashion_mnist_16.py:unet+sc+csd
    python -m benchmarks.ablation --folder=runs/ablation    # the whole table

Variants: `unet` (the default, 0.85 M parameters) or `dit` (0.48 M), both under DDPM,
with any of settings/recipes.py's additions: +sc (self-conditioning), +sc_stopped (with
a stopped gradient), +csd (contrastive self-distillation), +dispersive,
+self_alignment.

Data: as in configs/fashion_mnist.py; images are brought to 16x16 by the area mean.
Hardware: one of two CPU cores, 2 GB. Time of 1,000 steps and all measurements: 15
minutes (`unet`), 12 (`dit`), a fifth to three quarters more with +csd.
Expected result: 79.5 % in the probe, Frechet distance 13 (`unet`); self-conditioning
changes neither; RESULTS.md has the table of what was measured here.
Variants `test` and VARIANT+test: in seconds, on a tiny network.
"""

from ddae_jax.settings import recipes, schema


def get_config(variant: str = "unet"):
    base, additions = recipes.split_variant(
        "fashion_mnist_16", variant or "unet", ("unet", "dit")
    )
    config = schema.default(network=base)
    config.name, config.variant = "fashion_mnist_16", variant
    config.data.name = "fashion_mnist"
    config.data.image_size = 16
    config.data.resize = "area"
    network = config.network
    network.image_channels = 1
    if base == "unet":
        network.channels = 64
        network.channel_multipliers = (1, 1, 1)
        network.attention = (False, True, False)
        network.blocks = 0
    else:
        network.patch_size = 2
        network.hidden_size, network.depth, network.heads = 64, 6, 2
        network.num_classes = 0
        network.learned_variance = False
        network.time_scale = 1000.0  # DDPM gives t/T
    train = config.train
    train.batch_size = 128
    train.steps = 1000
    train.learning_rate = 1e-3
    train.warmup_steps = 100
    train.ema_decay = 0.995
    train.log_every = 50
    train.checkpoint_every = 250
    train.keep_every = 250
    config.sampler.steps = 20
    config.probe.classifier = "logistic"
    config.probe.times = (11, 41)
    config.probe.train_count = 5000
    config.probe.held_out = 0.2  # a thousand images choose the cell
    config.fid.features = "classifier"  # Inception knows no grey clothes
    config.fid.test_images = True
    config.fid.count = 2000
    recipes.add(config, additions)
    config.objectives.contrastive.hidden = 256
    config.objectives.contrastive.features = 64
    return config
