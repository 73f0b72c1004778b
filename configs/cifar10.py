"""CIFAR-10 with the five recipes of DDAE (Xiang et al. 2023, arXiv 2303.09769), and
those of the networks that its probes were also published on.

    python -m ddae_jax.main --config=configs/cifar10.py:edm_ddpmpp

Data: --task=prepare downloads it; or --config.data.folder with the python archive.
Hardware: meant for GPUs or TPUs in bfloat16; 35.7 M parameters (ddpm, edm_ddpm), 55.7
(edm_songunet), 56.4 (edm_ncsnpp), 39.5 (edm2_c, edm2_e), 44.3 (uvit_s) or 56.5 M (the
others). Time: not measured.
Expected result, as published, not measured here: FID of 50,000 samples against the
training set, and test accuracy of the linear probe, at the best probe's checkpoint:

| variant        |   steps | published epoch / FID / accuracy | best time, tap |
|----------------|---------|----------------------------------|----------------|
| ddpm (default) | 195,312 |  800 / 4.09 / 90.05 %            | 11, out_6      |
| ddpmpp         | 390,625 | 1200 / 3.08 / 93.97 %            | 11, out_6      |
| edm_ddpm       | 195,312 | 1200 / 3.97 / 90.44 %            | 4, out_7       |
| edm_ddpmpp     | 390,625 | 1200 / 2.23 / 94.50 %            | 4, out_7       |
| edm_ddpmpp_aug | 390,625 | 2000 / 2.34 / 95.49 %            | 4, out_7       |
| edm_songunet   | 390,625 | end / 1.97 / 95.9 %              |                |
| edm_ncsnpp     | 390,625 |                                  |                |
| edm2_c         |  97,656 | 1000 / 3.03; 500 / 91.85 %       | 4, out_6       |
| edm2_e         | 195,312 | 2000 / 2.72; 1000 / 93.46 %      | 4, out_6       |
| uvit_s         | 500,000 | end / 4.51                       |                |

edm_songunet: the EDM authors' FID, the least of three, and DDAE's probe of their
weights; uvit_s: FID with 100 DDIM steps (3.33 with 1000 DDPM steps), as DDAE++'s
authors report, whose recipe is not published: this one is U-ViT's own. Empty: unknown.
ddae_jax/settings/recipes.py says where these recipes are ours.

All but edm2_c and edm2_e also take settings/recipes.py's additions: VARIANT+sc is
DDAE++'s self-conditioning, VARIANT+sc+csd its contrastive self-distillation too (Xiang
et al., arXiv 2505.10999). No number of theirs on CIFAR-10 is known to us.

The publication chose tap and time on the test set; this probe chooses on held-out
training images. Its warm-up rises once an epoch, ours every step over the same length.
Variants `test` and, such as `edm2_c+test`, VARIANT+test: in seconds, on a tiny network.
"""

from ddae_jax.settings import recipes, schema

_IMAGES = 50_000
# process, DDPM++ network, batch, epochs, warm-up epochs, learning rate
_VARIANTS = {
    "ddpm": ("ddpm", False, 512, 2000, 13, 4e-4),
    "ddpmpp": ("ddpm", True, 256, 2000, 13, 4e-4),
    "edm_ddpm": ("edm", False, 512, 2000, 200, 4e-4),
    "edm_ddpmpp": ("edm", True, 256, 2000, 200, 4e-4),
    "edm_ddpmpp_aug": ("edm", True, 512, 4000, 200, 8e-4),
}
_OTHERS = {
    "edm_songunet": lambda config: recipes.edm_songunet(config, _IMAGES),
    "edm_ncsnpp": lambda config: recipes.edm_songunet(config, _IMAGES, ncsnpp=True),
    "edm2_c": lambda config: recipes.edm2(config, _IMAGES, weight_normalization=False),
    "edm2_e": lambda config: recipes.edm2(config, _IMAGES, weight_normalization=True),
    "uvit_s": lambda config: recipes.uvit_s(config, _IMAGES),
}


def get_config(variant: str = "ddpm"):
    variant = variant or "ddpm"
    base, additions = recipes.split_variant("cifar10", variant, (*_VARIANTS, *_OTHERS))
    if base in _OTHERS:
        config = schema.default()
        config.name, config.variant = "cifar10", variant
        config.dtype = "bfloat16"
        config.data.name = "cifar10"
        _OTHERS[base](config)
        recipes.add(config, additions)
        return config
    process, plus_plus, batch, epochs, warmup_epochs, rate = _VARIANTS[base]
    edm = process == "edm"
    config = schema.default(process=process, sampler="heun" if edm else "ddim")
    config.name, config.variant = "cifar10", variant
    config.dtype = "bfloat16"
    config.data.name = "cifar10"

    network = config.network
    network.dropout = 0.13 if edm else 0.1
    if plus_plus:
        network.channel_multipliers = (2, 2, 2)
        network.attention = (False, True, False)
        network.blocks = 4
        network.residual_resampling = True

    train = config.train
    train.batch_size = batch
    train.learning_rate = rate
    train.steps = epochs * _IMAGES // batch
    train.warmup_steps = warmup_epochs * _IMAGES // batch
    train.ema_decay = 0.9993 if edm else 0.9999
    if base == "edm_ddpmpp_aug":
        network.augment_channels = 9
        train.augment_probability = 0.12
    train.checkpoint_every = 1000
    train.keep_every = 5_120_000 // batch  # about 100 epochs
    train.sample_every = 5000
    recipes.add(config, additions)
    return config
