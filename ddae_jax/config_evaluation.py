"""The fields of the tasks that evaluate a denoiser, with their defaults."""

from collections.abc import Callable

from ml_collections import ConfigDict, config_dict


def _contrastive() -> ConfigDict:
    contrastive = ConfigDict()
    contrastive.taps = ()  # empty: all
    contrastive.times = (11,)  # in the published convention of the process
    contrastive.noise_levels = ()  # sigma/alpha; instead of times where not empty
    contrastive.steps = ()  # checkpoints; empty: all
    contrastive.count = 50_000  # training images, drawn at random; 0: all
    contrastive.batch_size = 128  # images of which uniformity takes all pairs
    contrastive.forward_batch_size = 128  # images in one forward pass, over all devices
    return contrastive


def _finetune() -> ConfigDict:
    finetune = ConfigDict()
    finetune.output = "finetune"  # names the results; begins with finetune
    finetune.from_scratch = False  # random weights, for comparison
    finetune.tap = ""  # empty: what the probe chose, else the middle one
    finetune.noise_level = 0.0  # sigma/alpha; 0: what the probe chose, else 0.05
    finetune.time = config_dict.placeholder(float)  # published; instead of the level
    finetune.epochs = 50
    finetune.batch_size = 128  # over all devices
    finetune.learning_rate = 5e-4  # AdamW's, of the head; cosine to 0
    finetune.warmup_epochs = 5
    finetune.weight_decay = 0.05
    finetune.layer_decay = 0.9  # factor of the rate per layer down; from scratch: 1
    finetune.clip_norm = 1.0  # of the global gradient
    finetune.ema_decay = 0.999  # the cap: it warms up as in pre-training
    finetune.mixup = 0.0  # alpha of its Beta distribution; 0: off
    finetune.cutmix = 0.0
    finetune.label_smoothing = 0.0
    finetune.drop_path = 0.0  # at the last block; transformers have it
    finetune.dropout = config_dict.placeholder(float)  # None: the network's own
    finetune.flip = config_dict.placeholder(bool)  # None: as the probe
    finetune.crop = config_dict.placeholder(int)  # pixels; None: as the probe
    finetune.label_fraction = 1.0  # share of each class's images, one at least
    finetune.train_count = 0  # use only the first images of the training set; 0: all
    finetune.test_count = 0
    finetune.eval_every = 1  # epochs between tests, each with a checkpoint
    return finetune


SECTIONS: dict[str, Callable[[], ConfigDict]] = {
    "contrastive": _contrastive,
    "finetune": _finetune,
}
"""Name of the section -> function that makes it; in the order of --help."""


def shrink(config: ConfigDict) -> None:
    """Sets the fields of these tasks as a `:test` variant has them."""
    config.contrastive.count = 24
    config.contrastive.batch_size = config.contrastive.forward_batch_size = 16
    finetune = config.finetune
    finetune.epochs, finetune.warmup_epochs, finetune.batch_size = 2, 1, 16
    finetune.train_count, finetune.test_count = 64, 32
