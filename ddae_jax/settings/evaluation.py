"""The fields of the tasks that evaluate a denoiser, with their defaults."""

from collections.abc import Callable

from ml_collections import ConfigDict, config_dict


def _contrastive() -> ConfigDict:
    contrastive = ConfigDict()
    contrastive.taps = ()  # empty: all
    contrastive.times = ()  # in its published convention; empty: the process's own
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


def _dense() -> ConfigDict:
    dense = ConfigDict()
    dense.parts = ("maps", "retrieval")  # and segmentation
    dense.taps = ()  # of maps and segmentation; empty: four, spread over the depth
    dense.tap = ""  # of retrieval; empty: the probe's choice, else the middle
    dense.noise_level = 0.0  # sigma/alpha; 0: the probe's choice, else 0.05
    dense.batch_size = 64  # over all devices
    dense.images = ""  # of maps: a file or folder; empty: the first test images
    dense.count = 8  # images in the picture of maps
    dense.clusters = 6  # of k-means
    dense.queries = 256  # test images whose neighbours are looked up
    dense.neighbours = 8  # of each query
    dense.gallery = 8  # queries in the picture of neighbours
    dense.train_count = 0  # neighbours come from the first training images; 0: all
    dense.train_images = ""  # of segmentation: a folder of images, and one of masks,
    dense.train_masks = ""  # PNG files of class indices; 255 is ignored
    dense.test_images = ""
    dense.test_masks = ""
    dense.classes = 0  # in the masks; 0: up to the highest index in training
    dense.held_out = 0.1  # share of the training images that chooses the tap
    dense.epochs = 20
    dense.learning_rate = 1e-2
    return dense


def _predict() -> ConfigDict:
    predict = ConfigDict()
    predict.images = ""  # a file or a folder of images
    predict.head = "probe"  # probe (logistic), finetune, or empty: features alone
    predict.tap = ""  # of the head probe; empty: the probe's choice, else the middle
    predict.noise_level = 0.0  # sigma/alpha; 0: the probe's choice, else 0.05
    predict.train_count = 0  # the head is fitted on the first training images; 0: all
    predict.batch_size = 128  # over all devices
    return predict


def _fid() -> ConfigDict:
    fid = ConfigDict()
    fid.count = 50_000  # samples to draw; the published protocol
    fid.samples = ""  # folder of images or .npz (arr_0); empty: the sampler's
    fid.keep_samples = False  # also write what is drawn, to WORKDIR/fid_samples
    fid.reference = ""  # images or statistics; empty: the training set
    fid.test_images = False  # also measure the data set's test images, as an anchor
    fid.features = ""  # classifier, or a folder; empty: Inception
    fid.inception = ""  # pt_inception-2015-12-05-6726825d.pth; empty: as in the cache
    fid.resize = "pytorch"  # how Inception gets its 299 pixels: pytorch, tf1, clean
    fid.cache = ""  # converted weights, statistics; empty: ~/.cache/ddae_jax
    fid.batch_size = 64  # of images from files and data sets, over all devices
    fid.precision_count = 10_000  # images of both for precision, recall, KID; 0: none
    fid.neighbours = 3  # of precision and recall
    fid.kid_subsets = 100
    fid.kid_subset_size = 1000  # at most
    fid.inception_splits = 10  # parts of the Inception score; 0: no score
    fid.classifier_steps = 1000
    fid.classifier_seed = 0
    return fid


def _noisy_classifier() -> ConfigDict:
    noisy = ConfigDict()
    noisy.kinds = ("features", "wide_resnet")  # trained in turn
    noisy.tap = ""  # of the features; empty: the probe's choice, else the published
    noisy.test_times = ()  # in the convention of the process; empty: the published
    noisy.test_noise_levels = ()  # sigma/alpha; instead of times where not empty
    noisy.flip = config_dict.placeholder(bool)  # None: as the probe
    noisy.crop = config_dict.placeholder(int)  # padding in pixels; None: as the probe
    noisy.train_count = 0  # use only the first images of the training set; 0: all
    noisy.test_count = 0
    noisy.log_every = 50
    noisy.checkpoint_every = 1000
    noisy.features = features = ConfigDict()  # a two-layer head
    features.epochs = 15
    features.batch_size = 512  # over all devices
    features.learning_rate = 4e-3  # Adam's, for the whole batch
    noisy.wide_resnet = wide = ConfigDict()  # from scratch: WRN-DEPTH-WIDEN
    wide.depth = 28
    wide.widen = 10
    wide.epochs = 200
    wide.warmup_epochs = 5
    wide.batch_size = 128
    wide.learning_rate = 0.1  # SGD's
    wide.momentum = 0.9
    wide.weight_decay = 5e-4
    return noisy


def _track() -> ConfigDict:
    track = ConfigDict()
    track.steps = ()  # checkpoints; empty: all
    track.measures = ("probe", "fid")  # fid is left out where its files are missing
    return track


SECTIONS: dict[str, Callable[[], ConfigDict]] = {
    "fid": _fid,
    "contrastive": _contrastive,
    "track": _track,
    "dense": _dense,
    "predict": _predict,
    "finetune": _finetune,
    "noisy_classifier": _noisy_classifier,
}
"""Name of the section -> function that makes it; in the order of --help."""


def shrink(config: ConfigDict) -> None:
    """Sets the fields of these tasks as a `:test` variant has them."""
    fid = config.fid
    fid.count, fid.batch_size, fid.precision_count = 24, 64, 24
    fid.kid_subset_size, fid.kid_subsets, fid.inception_splits = 12, 4, 2
    fid.classifier_steps = 6
    config.contrastive.count = 24
    config.contrastive.batch_size = config.contrastive.forward_batch_size = 16
    finetune = config.finetune
    finetune.epochs, finetune.warmup_epochs, finetune.batch_size = 2, 1, 16
    finetune.train_count, finetune.test_count = 64, 32
    dense, predict = config.dense, config.predict
    dense.batch_size, dense.count, dense.clusters = 16, 3, 3
    dense.queries, dense.neighbours, dense.gallery = 8, 3, 2
    dense.train_count, dense.epochs = 64, 1
    predict.batch_size, predict.train_count = 16, 64
    noisy = config.noisy_classifier
    noisy.train_count, noisy.test_count = 64, 32
    noisy.features.epochs, noisy.features.batch_size = 1, 16
    wide = noisy.wide_resnet
    wide.depth, wide.widen, wide.epochs, wide.batch_size = 10, 1, 1, 16
