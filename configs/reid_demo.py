"""AlignedReID on synthetic pedestrians: a demonstration, not a benchmark.

    python -m ddae_jax.main --config=configs/reid_demo.py
    python -m ddae_jax.main --config=configs/reid_demo.py:frozen
    python -m benchmarks.reid_experiment --folder=runs/reid_experiment

Variants: `resnet` (the default, a narrow one), `frozen` and `finetuned`: features of a
UNet that is first trained as a denoiser on the same images, without identities.

Data: synthetic (ddae_jax/data/person_synthetic.py), 1,152 training images of 96
persons, 256 queries and 576 gallery images of 64 others and of 64 distractors, drawn at
32x16 pixels. No figure of it says anything about photographs.
Hardware: two CPU cores, 2 GB. Time: 20 seconds of CPU time (`resnet`), 4 to 5 minutes
with the denoiser's training.
Expected result: `resnet`, seeds 0 to 2, global distance: rank-1 68.0 %, mAP 49.8 %;
re-ranked 74.7 and 65.5 %. RESULTS.md has the whole table.
Variants `test` and VARIANT+test: the same in seconds.
"""

from ddae_jax.settings import schema

VARIANTS = ("resnet", "frozen", "finetuned")


def get_config(variant: str = "resnet"):
    schema.check_variant("reid_demo", variant, VARIANTS)
    variant = variant or "resnet"
    config = schema.default(network="unet")
    config.name, config.variant = "reid_demo", variant
    config.tasks = ("reid", "report")
    config.data.name = "synthetic_people"
    config.data.image_size = 16
    network = config.network
    network.channels = 32
    network.channel_multipliers = (1, 2, 2)
    network.attention = (False, False, False)
    network.blocks = 0
    network.dropout = 0.0
    train = config.train
    train.batch_size = 32
    train.steps = 400
    train.learning_rate = 1e-3
    train.warmup_steps = 50
    train.ema_decay = 0.99
    train.checkpoint_every = 100
    train.sample_every = 0
    reid = config.reid
    reid.resnet.blocks, reid.resnet.width = (1, 1), 16
    reid.stripe_features = 64
    reid.persons, reid.images_each = 12, 4
    reid.epochs, reid.decay_from = 30, 15
    reid.decay_to = 0.05
    reid.learning_rate = 2e-3
    reid.checkpoint_every = 80
    if variant != "resnet":
        config.tasks = ("pretrain", "reid", "report")
        reid.backbone = "denoiser"
        reid.tap, reid.noise_level = "out_1", 0.05
        reid.frozen = variant == "frozen"
        reid.projection = 128
    return config
