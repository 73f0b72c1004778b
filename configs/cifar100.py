"""CIFAR-100: the recipe of CIFAR-10's edm_ddpmpp (EDM, DDPM++ network, 56.5 M).

    python -m ddae_jax.main --config=configs/cifar100.py

Variants edm2_c and edm2_e: the same authors' EDM2 networks (39.5 M), their recipes.
Variants +sc and +sc+csd: the default with DDAE++'s self-conditioning, and with its
contrastive self-distillation too (arXiv 2505.10999); no number of theirs on CIFAR-100
is known to us.

Data: --task=prepare downloads it; or --config.data.folder with the python archive.
Hardware: meant for GPUs or TPUs in bfloat16. Time: not measured.
Expected result: none is published for the default, and none was measured here.
Published: edm2_c FID 5.06 (epoch 1000), probe 65.40 % (epoch 500); edm2_e 4.33 (2000),
69.04 % (1100), at time 4, out_6.
Variants `test`, `edm2_c+test`, `edm2_e+test`: in seconds, on a tiny network.
"""

from ddae_jax.settings import recipes, schema


def get_config(variant: str = ""):
    base, additions = recipes.split_variant(
        "cifar100", variant, ("", "edm2_c", "edm2_e")
    )
    config = schema.default(process="edm", sampler="heun")
    config.name, config.variant = "cifar100", variant
    config.dtype = "bfloat16"
    config.data.name = "cifar100"
    if base:
        recipes.edm2(config, 50_000, weight_normalization=base == "edm2_e")
        recipes.add(config, additions)
        return config
    config.network.channel_multipliers = (2, 2, 2)
    config.network.attention = (False, True, False)
    config.network.blocks = 4
    config.network.residual_resampling = True
    config.network.dropout = 0.13
    config.train.batch_size = 256
    config.train.learning_rate = 4e-4
    config.train.steps = 390_625  # 2,000 epochs
    config.train.warmup_steps = 39_062  # 200 epochs
    config.train.ema_decay = 0.9993
    config.train.checkpoint_every = 1000
    config.train.keep_every = 20_000  # about 100 epochs
    config.train.sample_every = 5000
    recipes.add(config, additions)
    return config


def for_test(config):
    config.probe.train_count = 400  # a few of each class
    config.probe.batch_size = 50
