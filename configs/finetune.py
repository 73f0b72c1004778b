"""Fine-tuning of pre-trained denoisers as classifiers, and the same from scratch.

    python -m ddae_jax.main --config=configs/finetune.py:cifar10_edm

Runs in the workdir of the pre-training: runs/cifar10-edm_ddpmpp for the above, or
--workdir. For comparison the same network at random weights, and fewer labels, of which
an epoch is shorter, so that it takes more of them:

    ... --config.finetune.from_scratch=True --config.finetune.output=finetune_scratch
    ... --config.finetune.label_fraction=0.1 --config.finetune.output=finetune_10 \
        --config.finetune.epochs=1000 --config.finetune.eval_every=50

| variant               | pre-trained by                  | tap, time     |
|-----------------------|---------------------------------|---------------|
| cifar10_ddpm          | configs/cifar10.py:ddpm         | out_6, 11     |
| cifar10_ddpmpp        | configs/cifar10.py:ddpmpp       | out_6, 11     |
| cifar10_edm (default) | configs/cifar10.py:edm_ddpmpp   | out_7, 4      |
| cifar10_edm_aug       | .../cifar10.py:edm_ddpmpp_aug   | out_7, 4      |
| cifar100_edm          | configs/cifar100.py             | as probed     |
| tiny_imagenet_edm     | configs/tiny_imagenet.py        | as probed     |
| cifar10_dit           | imported: configs/dit_transfer.py | layer-13, 121 |
| tiny_imagenet_dit     | imported: configs/dit_transfer.py | layer-13, 81  |
| fashion_mnist         | configs/fashion_mnist.py        | as probed     |
| digits                | configs/digits.py               | as probed     |

Taps and times are the published ones of the linear probe (Xiang et al. 2023); without a
probe "as probed" is the middle tap at noise level 0.05. The rest is our choice: the
authors' code has no fine-tuning. DiT-XL/2, with its autoencoder, is in runs/dit after
the imports of configs/dit_transfer.py: give --workdir=runs/dit.
Data: as in those configs.
Hardware: meant for one GPU of 80 GB in bfloat16; fashion_mnist and digits for two CPU
cores. Expected time: not measured; digits some minutes (estimated).
Expected result: none is published that we could check, and none was measured here
but for what RESULTS.md has.
Variants `test` and, such as `cifar10_dit+test`, VARIANT+test: pre-trains and fine-tunes
a tiny network on digits in seconds.
"""

import pathlib

from ddae_jax.settings import config_files, schema

# config of the pre-training, tap ("" as probed), published time
_VARIANTS = {
    "cifar10_ddpm": ("cifar10.py:ddpm", "out_6", 11),
    "cifar10_ddpmpp": ("cifar10.py:ddpmpp", "out_6", 11),
    "cifar10_edm": ("cifar10.py:edm_ddpmpp", "out_7", 4),
    "cifar10_edm_aug": ("cifar10.py:edm_ddpmpp_aug", "out_7", 4),
    "cifar100_edm": ("cifar100.py", "", None),
    "tiny_imagenet_edm": ("tiny_imagenet.py", "", None),
    "cifar10_dit": ("dit_transfer.py:cifar10", "layer-13", 121),
    "tiny_imagenet_dit": ("dit_transfer.py:tiny_imagenet", "layer-13", 81),
    "fashion_mnist": ("fashion_mnist.py", "", None),
    "digits": ("digits.py", "", None),
}
_SMALL = ("fashion_mnist", "digits")


def get_config(variant: str = "cifar10_edm"):
    schema.check_variant("finetune", variant, _VARIANTS)
    variant = variant or "cifar10_edm"
    base, tap, time = _VARIANTS[variant]
    # Name and variant stay those of the pre-training: so does the default workdir.
    config = config_files.load(str(pathlib.Path(__file__).parent / base))
    config.tasks = ("finetune", "report")
    finetune = config.finetune
    finetune.tap, finetune.time = tap, time
    if variant in _SMALL:
        finetune.epochs, finetune.eval_every = 30, 5
        finetune.label_smoothing = 0.1
        return config
    finetune.epochs, finetune.eval_every = 100, 5
    finetune.batch_size = 256
    finetune.learning_rate = 1e-3
    finetune.mixup, finetune.cutmix = 0.8, 1.0
    finetune.label_smoothing = 0.1
    if variant.endswith("_dit"):
        # One import serves both data sets: their results get names of their own.
        finetune.output = f"finetune_{variant.removesuffix('_dit')}"
        finetune.epochs, finetune.eval_every = 30, 2
        finetune.batch_size = 128
        finetune.learning_rate = 5e-4
        finetune.layer_decay = 0.75
        finetune.drop_path = 0.1
    return config


def for_test(config):
    config.name, config.tasks = "finetune", ("pretrain", "finetune", "report")
    config.data.name = "digits"
