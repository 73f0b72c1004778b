"""Published pre-training recipes that several configs share."""

from collections.abc import Iterable

from ml_collections import ConfigDict

from ddae_jax.errors import UserError
from ddae_jax.models import lightningdit as lightningdit_network
from ddae_jax.settings import schema
from ddae_jax.settings.fields import unknown

ADDITIONS = {
    "sc": {"network.self_condition.tap": "default"},
    "sc_stopped": {
        "network.self_condition.tap": "default",
        "network.self_condition.stop_gradient": True,
    },
    "csd": {"objectives.contrastive.on": True},
    "dispersive": {"objectives.dispersive.on": True},
    "self_alignment": {"objectives.self_alignment.on": True},
}
"""What "+NAME" in a variant changes: DDAE++'s self-conditioning and its contrastive
self-distillation (Xiang et al., arXiv 2505.10999), and what they are compared with."""


def split_variant(
    name: str, variant: str, bases: Iterable[str]
) -> tuple[str, tuple[str, ...]]:
    """ "BASE+sc+csd" -> BASE and the names of `ADDITIONS`.

    Args:
      name: of the config.
      bases: the variants without additions, the default first; "" where it has no
        name.

    Raises:
      UserError: no such base, no such addition, or one of them twice.
    """
    base, *additions = variant.split("+")
    bases = tuple(bases)
    schema.check_variant(name, base, tuple(filter(None, bases)))
    for addition in additions:
        if addition not in ADDITIONS:
            raise UserError(
                unknown(f"variant of config {name}: +", addition, ADDITIONS)
            )
    if len(set(additions)) < len(additions):
        raise UserError(f"variant of config {name}: {variant} adds something twice")
    return base or bases[0], tuple(additions)


def add(config: ConfigDict, additions: Iterable[str]) -> None:
    """Changes what each of `ADDITIONS` names.

    Views are EDM's augmentation with its labels, as DDAE++'s are, where the config
    trains with it; else the denoising loss sees no strong augmentation.

    Raises:
      UserError: the network has no self-conditioning.
    """
    if "csd" in additions and config.train.augment_probability:
        config.objectives.contrastive.views = "edm"
    for addition in additions:
        for path, value in ADDITIONS[addition].items():
            *sections, field = path.split(".")
            section = config
            for part in sections:
                if part not in section:
                    raise UserError(
                        f"variant of config {config.name}: +{addition}, but "
                        f"{config.network.name} has no {part}"
                    )
                section = section[part]
            section[field] = value


def edm_songunet(config: ConfigDict, images: int, ncsnpp: bool = False) -> None:
    """NVlabs/edm's CIFAR-10 runs (Karras et al. 2022): DDPM++, or NCSN++.

    200 million images in batches of 512, Adam at 1e-3 after a ramp over 10 million
    images, no gradient clipping, dropout 0.13, EDM augmentation at 0.12 and no
    other flips. The published EMA has a half-life of 0.5 million images, in the first
    10 million of 5 % of the images seen; ours has the same cap and its own warm-up.

    Args:
      images: in the training set.
    """
    _edm(config, "songunet")
    network, train = config.network, config.train
    network.augment_channels = 9
    if ncsnpp:
        network.fourier = True
        network.noise_multiplier = 2
        network.residual_encoder = True
        network.resample_filter = (1, 3, 3, 1)
    train.batch_size = 512
    train.steps = 200_000_000 // 512
    train.warmup_steps = 10_000_000 // 512
    train.learning_rate = 1e-3
    train.ema_decay = 0.5 ** (512 / 500_000)
    train.flip = False
    train.augment_probability = 0.12
    config.sampler.clip = False  # NVlabs' sampler does not
    _keep(config, images)


def edm2(
    config: ConfigDict, images: int, weight_normalization: bool, tiny: bool = False
) -> None:
    """FutureXiang/edm2's configurations C and E (Karras et al. 2024, arXiv 2312.02696).

    Warm-up over 200 epochs; E (`weight_normalization`) decays with the square root of
    the step from epoch 400 on. No gradient clipping.

    Args:
      images: in the training set.
      tiny: the variant for Tiny-ImageNet at 64x64, else that for CIFAR at 32x32.
    """
    _edm(config, "edm2")
    network, train = config.network, config.train
    network.weight_normalization = weight_normalization
    rates = (4e-4, 2e-2)
    epochs = 2000 if weight_normalization else 1000
    train.batch_size = 512
    if tiny:
        network.attention = (False, False, True, False)
        network.blocks = 4
        network.dropout = 0.1
        rates, epochs = (1.5e-4, 7.5e-3), 2000
        train.batch_size = 192
        train.flip = False
    train.learning_rate = rates[weight_normalization]
    train.steps = epochs * images // train.batch_size
    train.warmup_steps = 200 * images // train.batch_size
    if weight_normalization:
        train.decay_from = 400 * images // train.batch_size
    train.ema_decay = 0.9993
    config.probe.crop = 0  # the published probe flips alone
    _keep(config, images)


def uvit_s(config: ConfigDict, images: int) -> None:
    """U-ViT-S/2's CIFAR-10 run (Bao et al. 2023, arXiv 2209.12152), under DDPM.

    500,000 steps of batch 128, AdamW at 2e-4, weight decay 0.03, beta1 0.99. The
    publication trains the same noise prediction in continuous time.

    Args:
      images: in the training set.
    """
    schema.select(config, "process", "ddpm")
    schema.select(config, "network", "uvit")
    network, train = config.network, config.train
    network.hidden_size, network.depth, network.heads = 512, 12, 8
    network.patch_size = 2
    network.time_scale = 999.0  # DDPM gives t/T
    train.batch_size = 128
    train.steps = 500_000
    train.warmup_steps = 2500
    train.learning_rate = 2e-4
    train.adam_b1 = 0.99
    train.weight_decay = 0.03
    train.clip_norm = float("inf")
    train.ema_decay, train.ema_warmup = 0.9999, False
    _keep(config, images)


def lightningdit(config: ConfigDict, size: str, images: int, epochs: int) -> None:
    """LightningDiT's recipe (Yao & Wang 2025, arXiv 2501.01423), without classes.

    Batch 1024, Adam at 2e-4 with a beta2 of 0.95 and no warm-up, EMA 0.9999, velocity
    and cosine loss at logit-normal times; sampled by Euler's rule at 250 times shifted
    by 0.3. For latents of 32x32, of which patches of 2x2 make the 256 tokens that the
    publication has of 16x16.

    Args:
      size: a key of `lightningdit.SIZES`.
      images: in the training set.
      epochs: of the training.
    """
    schema.select(config, "process", "flow")
    schema.select(config, "sampler", "euler")
    schema.select(config, "network", "lightningdit")
    config.process.cosine_loss = True
    network, train = config.network, config.train
    for field, value in lightningdit_network.SIZES[size].items():
        network[field] = value
    network.patch_size = 2
    network.num_classes = 0
    train.batch_size = 1024
    train.steps = epochs * images // train.batch_size
    train.warmup_steps = 0
    train.learning_rate = 2e-4
    train.adam_b2 = 0.95
    train.ema_decay, train.ema_warmup = 0.9999, False
    _keep(config, images // 5)  # about every 20 epochs, as DDAE++ measures


def _edm(config: ConfigDict, network: str) -> None:
    schema.select(config, "process", "edm")
    schema.select(config, "network", network)
    config.train.clip_norm = float("inf")


def _keep(config: ConfigDict, images: int) -> None:
    """Checkpoints for probes along the way: the best of them comes before the end."""
    train = config.train
    train.checkpoint_every = 1000
    train.keep_every = max(100 * images // train.batch_size // 1000, 1) * 1000
    train.sample_every = 5000
