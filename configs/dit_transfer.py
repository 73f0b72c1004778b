"""Linear probe of a published latent denoiser on small images: DiT-XL/2 transfer.

    for file in DiT-XL-2-256x256.pt sd-vae-ft-mse.safetensors; do
      python -m ddae_jax.main --task=import --workdir=runs/dit \
          --config.import_weights.path=$file
    done
    python -m ddae_jax.main --config=configs/dit_transfer.py:cifar10 --workdir=runs/dit

Images are flipped and cropped at their own size, resized to 256x256 as Pillow's
bilinear filter does, and encoded to a draw from the autoencoder's posterior, batch by
batch: no cache. No class is given. Protocol as published (Xiang et al. 2023): tap
layer-13, DiT's 0-based time 121 or 81, one linear layer, batches of 128
and Adam at 1e-3 for each of 4 GPUs, 30 epochs, cosine.
Data: CIFAR-10 as in configs/cifar10.py, Tiny-ImageNet as in configs/tiny_imagenet.py.
Hardware: meant for one GPU of 80 GB in bfloat16. Time: not measured.
Expected result, as published, not measured here, test accuracy:

| variant           | time | accuracy |
|-------------------|------|----------|
| cifar10 (default) | 121  | 85.73 %  |
| tiny_imagenet     | 81   | 66.57 %  |

One workdir holds one probe.json: copy runs/dit for a second data set.
Variants `test` and `tiny_imagenet+test`: on digits, of whatever small latent denoiser
the workdir has.
"""

from ddae_jax.settings import schema

# data set, time, image size
_VARIANTS = {
    "cifar10": ("cifar10", 121, 32),
    "tiny_imagenet": ("tiny_imagenet", 81, 64),
}


def get_config(variant: str = "cifar10"):
    schema.check_variant("dit_transfer", variant, _VARIANTS)
    variant = variant or "cifar10"
    data, time, size = _VARIANTS[variant]
    config = schema.default(network="dit", process="dit", sampler="respaced")
    config.name, config.variant = "dit_transfer", variant
    config.tasks = ("probe", "report")
    config.dtype = "bfloat16"
    config.data.name = data
    config.data.image_size = size
    config.data.channels = 3
    config.data.resident_bytes = 2 << 30
    config.network.hidden_size = 1152
    config.network.depth = 28
    config.network.heads = 16
    config.probe.taps = ("layer-13",)
    config.probe.times = (time,)
    config.probe.epochs = 30
    config.probe.batch_size = 512
    config.probe.learning_rate = 4e-3
    config.probe.baselines = False  # an untrained DiT-XL costs as much again
    return config


def for_test(config):
    config.data.name = "digits"
