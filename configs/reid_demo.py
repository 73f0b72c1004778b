"""AlignedReID on synthetic pedestrians: a demonstration, not a benchmark.

python -m ddae_jax.main --config=configs/reid_demo.py
"""

from ddae_jax.settings import schema


def get_config(variant: str = ""):
    schema.check_variant("reid_demo", variant, ())
    config = schema.default()
    config.name, config.variant = "reid_demo", variant
    config.tasks = ("reid", "report")
    config.data.name = "synthetic_people"
    config.data.image_size = 32
    reid = config.reid
    reid.resnet.blocks, reid.resnet.width = (1, 1, 1), 16
    reid.resnet.last_stride = 1
    reid.projection = 0
    reid.stripe_features = 64
    reid.persons, reid.images_each = 16, 4
    reid.epochs, reid.decay_from = 40, 20
    reid.learning_rate = 1e-3
    reid.decay_to = 0.05
    return config


def for_test(config):
    config.data.image_size = 16
