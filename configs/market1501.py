"""AlignedReID on Market1501, as its public reproduction trains it.

    python -m ddae_jax.main --config=configs/market1501.py --config.data.folder=DIR \
        --config.reid.resnet.weights=resnet50-0676ba61.pth

DIR is the unpacked Market-1501-v15.09.15: bounding_box_train, query, bounding_box_test.
Variants: `aligned` (the default), `mutual` (two networks teach each other, with the
softmax of persons). ResNet-50 from torchvision's ImageNet weights, 256x128, 32 persons
x 4 images, 300 passes over the persons, Adam at 2e-4, constant for 150 and then falling
to a thousandth, flips. The paper merges four sets: name the others, for example

    --config.reid.more_training="('cuhk03=DIR/CUHK03-NP/labeled','msmt17=DIR/MSMT17_V1')"

DukeMTMC-reID is `--config.data.name=dukemtmc`, MSMT17 `--config.data.name=msmt17`. A
trained network ranks your own images, DIR/query and DIR/gallery named as Market1501's:

    --task=reid --config.reid.model=reid --config.reid.output=reid_mine \
        --config.reid.folder=DIR

Hardware: meant for one GPU of 24 GB. Time: not measured.
Expected result: none was measured here. Published, rank-1 / mAP in %, of training on
Market1501 alone: 87.05 / 71.38, re-ranked 89.85 / 85.49; with mutual learning 88.78 /
75.76, re-ranked 91.92 / 88.27 (a public reproduction). Published in the paper, trained
on Market1501, CUHK03, CUHK-SYSU and MARS together, with mutual learning and re-ranking:
rank-1 94.4.
Variants `test` and VARIANT+test: in seconds, on a tiny network.
"""

from ddae_jax.settings import schema


def get_config(variant: str = "aligned"):
    schema.check_variant("market1501", variant, ("aligned", "mutual"))
    config = schema.default()
    config.name, config.variant = "market1501", variant or "aligned"
    config.tasks = ("reid", "report")
    config.dtype = "bfloat16"
    config.data.name = "market1501"
    config.data.image_size = 128  # and 256 high
    config.data.resident_bytes = 2 << 30
    reid = config.reid
    reid.repeat_images = True  # some persons have two images
    if variant == "mutual":
        reid.mutual = True
        reid.identity_weight = 1.0
    return config
