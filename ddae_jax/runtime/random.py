"""Random streams by name: every draw of the project comes out of one of them.

A stream is the seed's root key with a stable 32-bit hash of its name folded in; the
root itself is never drawn from. `split` and `fold_in` of one key can give the same key
(threefry's split(k)[i] is fold_in(k, i)), so a stream is either split once or folded
with a step or an example's index, never both: what needs another kind of draw has a
name of its own.
"""

import hashlib

import jax
from jaxtyping import PRNGKeyArray

STREAMS = {
    "train/init": "initial parameters of a denoiser, the untrained baseline's too",
    "train/step": "augmentation, times, noise and dropout, folded with the step",
    "train/posterior": "latents out of moments, folded with the step",
    "train/objectives": "views, noise and times of objectives, by name and step",
    "train/objectives_init": "initial parameters of objectives, by name",
    "train/watch": "noise of the images whose features are watched, by index",
    "sample/noise": "start and steps of sample i, folded with i",
    "probe/fit": "initial heads; flips, crops and noise of training images",
    "probe/train_noise": "noise of training images, by index and draw",
    "probe/held_out_noise": "noise of held-out images, by index",
    "probe/test_noise": "noise of test images, by index and draw",
    "contrastive/first": "noise of the first view, by index",
    "contrastive/second": "noise of the second view, by index",
    "diagnose/noise": "noise under which the loss is measured, by index",
    "diagnose/features": "noise under which features are taken, by index",
    "dense/maps": "noise of the images that maps show",
    "dense/queries": "noise of queries, by index",
    "dense/gallery": "noise of the images that are searched, by index",
    "dense/init": "initial segmentation heads",
    "dense/statistics": "noise under which features are standardised, by index",
    "dense/train_noise": "noise of training images, by position",
    "dense/held_out_noise": "noise of held-out images, by index",
    "dense/test_noise": "noise of test images, by index",
    "predict/noise": "noise of the user's images, by index",
    "predict/head": "noise of training images under the head, by index",
    "explore/noise": "the one noise of whatever image is looked at",
    "explore/references": "noise of the images beside it, by index",
    "finetune/fit": "the initial head; augmentation, noise, mixing and dropout",
    "finetune/test_noise": "noise of test images, by index",
    "noisy_classifier/init": "initial parameters",
    "noisy_classifier/draws": "flips, crops, noise and training times",
    "noisy_classifier/test_noise": "noise of test images, by index",
    "reid/init": "initial parameters of one or two networks",
    "reid/draws": "flips, crops, erased rectangles and noise of training images",
    "reid/query_noise": "noise of queries, by index",
    "reid/gallery_noise": "noise of gallery images, by index",
    "fid/classifier_init": "initial parameters of the feature classifier",
    "model/features": "noise of Model.features, by index",
}
"""Name -> what is drawn from it."""


def stream(seed: int, name: str) -> PRNGKeyArray:
    """Returns the key of a stream.

    Raises:
      KeyError: no such name in STREAMS.
    """
    if name not in STREAMS:
        raise KeyError(f"no random stream {name!r}; runtime/random.py has the names")
    return jax.random.fold_in(jax.random.key(seed), name_hash(name))


def register_stream(name: str, purpose: str) -> None:
    """Adds a stream of another package.

    Raises:
      ValueError: the name is taken, or its hash is that of another name.
    """
    if name in STREAMS:
        raise ValueError(f"the random stream {name!r} exists")
    taken = {name_hash(other): other for other in STREAMS}
    if name_hash(name) in taken:
        raise ValueError(f"{name!r} has the hash of {taken[name_hash(name)]!r}")
    STREAMS[name] = purpose


def name_hash(name: str) -> int:
    """The 32 bits of a name that are folded in."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
