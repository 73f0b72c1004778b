"""LightningDiT on ImageNet-256 latents: DDAE++'s latent experiments, as far as known.

    IMAGES="--config.data.name=image_folder --config.data.folder=DIR \
        --config.data.channels=3"
    LATENTS="--config.autoencoder.folder=runs/vae --config.data.folder=runs/vae/latents"
    python -m ddae_jax.main --task=import --workdir=runs/vae \
        --config.import_weights.path=sd-vae-ft-ema.safetensors
    python -m ddae_jax.main --config=configs/imagenet_latent.py --workdir=runs/vae \
        --task=encode --config.dtype=float32 $IMAGES
    python -m ddae_jax.main --config=configs/imagenet_latent.py:lightningdit_b+sc \
        --workdir=runs/b_sc $LATENTS
    python -m ddae_jax.main --task=probe --workdir=runs/b_sc $IMAGES

Variants: lightningdit_b (default, 130 M parameters), lightningdit_l (457 M) and
lightningdit_xl (674 M), each also with +sc (self-conditioning) and +sc+csd (with
contrastive self-distillation too); settings/recipes.py has more additions. No classes;
with them: --config.train.class_conditional=True --config.network.num_classes=1000.
The second view of +csd is another draw from the posterior, flipped by a coin of its own
and cropped, not coloured: our choice, as what DDAE++ does with latents is not public.

Data: DIR holds train/CLASS/*.JPEG and test/CLASS/*.JPEG (the validation images). The
third command trains on what the second wrote: 44 GB in float16, mirrored images
included.
Hardware: meant for 8 GPUs of 80 GB in bfloat16. Time: not measured.
Expected result: not measured here. As published (Xiang et al., arXiv 2505.10999) for
LightningDiT-B of another tokenizer: FID of 10,000 samples / accuracy of the linear
probe in %. LightningDiT's only released tokenizer, VA-VAE f16d32, is itself aligned to
DINOv2; the one here is Stable Diffusion's KL-VAE f8d4, which is not. So these numbers
are no target for this config.

| published, VA-VAE f16d32 | epochs | lightningdit_b | lightningdit_b+sc |
|--------------------------|--------|----------------|-------------------|
| unconditional            |     20 | 43.44 / 61.54  | 42.63 / 62.05     |
| unconditional            |     40 | 35.39 / 62.87  | 34.22 / 62.99     |
| unconditional            |     60 | 31.66 / 63.20  | 30.75 / 63.74     |
| unconditional            |     80 | 29.31 / 63.45  | 28.60 / 64.36     |
| unconditional            |    100 | 27.76 / 63.77  | 26.85 / 64.59     |
| unconditional            |    200 | 24.19 / 64.50  | 23.14 / 65.50     |
| unconditional            |    300 | 22.55 / 64.80  | 21.73 / 66.22     |
| unconditional            |    400 | 21.26 / 64.93  | 20.85 / 66.55     |
| class-conditional        |    100 | 15.51 / 62.01  | 14.52 / 62.39     |
| the same with guidance   |    100 | 5.72 (IS 172)  | 5.58 (IS 189.7)   |

Nothing is published of +sc+csd and of the larger networks with +sc in this setting.
Variants `test` and VARIANT+test: in seconds, on a tiny network and the digits
themselves, without an autoencoder.
"""

from ddae_jax.settings import recipes, schema

_IMAGES = 1_281_167
_SIZES = {"lightningdit_b": "B", "lightningdit_l": "L", "lightningdit_xl": "XL"}


def get_config(variant: str = "lightningdit_b"):
    base, additions = recipes.split_variant(
        "imagenet_latent", variant or "lightningdit_b", _SIZES
    )
    config = schema.default()
    config.name, config.variant = "imagenet_latent", variant
    config.tasks = ("pretrain", "sample", "report")
    config.dtype = "bfloat16"
    config.data.name = "latents"
    config.data.image_size = 256
    config.encode.normalise = "channels"
    recipes.lightningdit(config, _SIZES[base], _IMAGES, epochs=400)
    recipes.add(config, additions)
    return config


def for_test(config):
    config.data.name = "digits"
    config.tasks = ("pretrain", "sample", "probe", "report")
