"""AlignedReID on synthetic pedestrians: a demonstration, not a benchmark.

    python -m ddae_jax.main --config=configs/reid_demo.py
"""

from ddae_jax.settings import schema

VARIANTS = ("resnet", "frozen", "finetuned")


def get_config(variant: str = "resnet"):
    schema.check_variant("reid_demo", variant, VARIANTS)
    variant = variant or "resnet"
    config = schema.default(network="uvit")
    config.name, config.variant = "reid_demo", variant
    config.tasks = ("reid", "report")
    config.data.name = "synthetic_people"
    config.data.image_size = 32
    network = config.network
    network.hidden_size, network.depth, network.heads = 96, 6, 4
    network.patch_size = 8
    network.time_scale = 1000.0  # DDPM gives t/T
    train = config.train
    train.batch_size = 64
    train.steps = 1000
    train.learning_rate = 1e-3
    train.warmup_steps = 100
    train.ema_decay = 0.995
    train.checkpoint_every = 500
    train.sample_every = 0
    reid = config.reid
    reid.resnet.blocks, reid.resnet.width = (1, 1, 1), 16
    reid.stripe_features = 64
    reid.persons, reid.images_each = 16, 4
    reid.epochs, reid.decay_from = 50, 25
    reid.decay_to = 0.05
    reid.learning_rate = 1e-3
    if variant != "resnet":
        config.tasks = ("pretrain", "reid", "report")
        reid.backbone = "denoiser"
        reid.frozen = variant == "frozen"
        reid.projection = 128
        reid.noise_level = 0.05
    return config


def for_test(config):
    config.data.image_size = 16
