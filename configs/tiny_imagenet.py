"""Tiny-ImageNet at 64x64: EDM with a DDPM++ network of one more level than CIFAR's.

    python -m ddae_jax.main --config=configs/tiny_imagenet.py \
        --config.data.folder=DIR

Data: DIR holds http://cs231n.stanford.edu/tiny-imagenet-200.zip, unzipped.
Hardware: meant for GPUs or TPUs in bfloat16. Time: not measured.
Variants edm2_c and edm2_e: the same authors' EDM2 networks (62.4 M), their recipes; no
flips in pre-training. The default's network, length and learning rate are our choice:
the authors' code has no such recipe.
Variants +sc and +sc+csd: the default with DDAE++'s self-conditioning, and with its
contrastive self-distillation too (arXiv 2505.10999); no number of theirs on this set is
known to us.
Expected result: not measured here. The paper reports 50.0 % probe accuracy with the
EDM authors' own code, another network. Published: edm2_c FID 15.96 (epoch 1600), probe
50.99 % (epoch 600); edm2_e 16.79, 52.07 %, unfinished.
Variants `test`, `edm2_c+test`, `edm2_e+test`: in seconds, on a tiny network.
"""

from ddae_jax.settings import recipes, schema


def get_config(variant: str = ""):
    base, additions = recipes.split_variant(
        "tiny_imagenet", variant, ("", "edm2_c", "edm2_e")
    )
    config = schema.default(process="edm", sampler="heun")
    config.name, config.variant = "tiny_imagenet", variant
    config.dtype = "bfloat16"
    config.data.name = "tiny_imagenet"
    config.data.image_size = 64
    config.data.resident_bytes = 2 << 30  # 1.2 GB: still lives on the accelerator
    if base:
        recipes.edm2(config, 100_000, base == "edm2_e", tiny=True)
        recipes.add(config, additions)
        return config
    config.network.channel_multipliers = (1, 2, 2, 2)
    config.network.attention = (False, False, True, False)  # at 16x16
    config.network.blocks = 4
    config.network.residual_resampling = True
    config.train.batch_size = 256
    config.train.learning_rate = 4e-4
    config.train.steps = 390_625  # 1,000 epochs
    config.train.warmup_steps = 20_000
    config.train.ema_decay = 0.9993
    config.train.checkpoint_every = 1000
    config.train.keep_every = 20_000
    config.train.sample_every = 5000
    recipes.add(config, additions)
    return config
