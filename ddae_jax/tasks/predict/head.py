"""The classifier with which `predict` works: of the probe, fine-tuned, or none."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Float

from ddae_jax.data import source as data_source
from ddae_jax.data.identity import of_source
from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment, cell
from ddae_jax.experiment.cell import TapAtTime
from ddae_jax.experiment.trained import Trained
from ddae_jax.features.encode import Encode, encode_set
from ddae_jax.heads import logistic
from ddae_jax.heads.logistic import LogisticRegression
from ddae_jax.runtime import processes
from ddae_jax.runtime.files import replacing
from ddae_jax.tasks.finetune.saved import load_finetuned

FILE = "head.npz"
_ARRAYS = ("mean", "scale", "kernel", "bias")
_IDENTITY = "identity"


@dataclasses.dataclass(frozen=True)
class Head:
    """From features to probabilities.

    Attributes:
      facts: of the head, for the protocol.
      class_names: in the order of the probabilities; () without a head.
      probabilities: features (batch, width) -> (batch, classes); None without a head.
    """

    facts: dict[str, Any]
    class_names: tuple[str, ...] = ()
    probabilities: Callable[[np.ndarray], np.ndarray] | None = None


@dataclasses.dataclass(frozen=True)
class Predictor:
    """From images to features, and from those to probabilities.

    Attributes:
      trained: the network.
      image_shape: (height, width, channels) to which images are brought.
      tap: its name.
      time: the process's own.
      head: on the features of the tap at the time.
    """

    trained: Trained
    image_shape: tuple[int, int, int]
    tap: str
    time: float
    head: Head

    @property
    def encode(self) -> Encode:
        """Gives the features under the name `tap`."""
        return self.trained.encoder((self.tap,))

    @property
    def noise_level(self) -> float:
        """sigma/alpha of `time`."""
        time = jnp.array([self.time], jnp.float32)
        return float(self.trained.denoiser.process.noise_level(time)[0])


def load(experiment: Experiment) -> Predictor:
    """The model that config.predict.head names.

    Raises:
      UserError: no checkpoint, or nothing fine-tuned; no head can be trained.
    """
    kinds = {"": _without, "probe": _probe, "finetune": _finetuned}
    return kinds[experiment.settings.predict.head](experiment)


def _without(experiment: Experiment) -> Predictor:
    trained = experiment.trained()
    chosen = cell.choose(experiment, "predict", trained.denoiser)
    head = Head({"head": "none", "weights": "EMA", "chosen by": chosen.chosen_by})
    return Predictor(trained, trained.seen_shape, chosen.tap, chosen.time.time, head)


def _finetuned(experiment: Experiment) -> Predictor:
    output = experiment.settings.finetune.output
    found = load_finetuned(experiment, output)
    kernel, bias = (found.head[name].astype(np.float64) for name in ("kernel", "bias"))
    head = Head(
        {"head": f"fine-tuned with the network, in {output}"},
        found.class_names,
        lambda features: softmax(features @ kernel + bias),
    )
    return Predictor(found.trained, found.image_shape, found.tap, found.time, head)


def _probe(experiment: Experiment) -> Predictor:
    """WORKDIR/head.npz, where it is of this checkpoint and these settings; else a
    logistic classifier is fitted on the training set, and kept there."""
    trained = experiment.trained()
    chosen = cell.choose(experiment, "predict", trained.denoiser)
    train = experiment.source("train")
    count = min(experiment.settings.predict.train_count or len(train), len(train))
    train = data_source.subset(train, np.arange(count))
    trained.check_images(train)
    check_training(train)
    identity = identity_of(experiment, trained, chosen, train)
    path = experiment.workdir / FILE
    head = read(path, identity)
    if head is None:
        logging.info("predict: fitting a head on %d training images", len(train))
        head = _fit(experiment, trained, chosen, train)
        processes.on_first(lambda: write(path, head, identity))
    else:
        logging.info("predict: the head of %s", path)
    facts = {
        "head": "logistic regression on standardised features",
        "head trained on": f"{len(train)} training images of {train.name}",
        "l2": experiment.settings.probe.l2,
        "weights": "EMA",
        "chosen by": chosen.chosen_by,
    }
    return Predictor(
        trained,
        train.image_shape,
        chosen.tap,
        chosen.time.time,
        Head(facts, train.class_names, lambda features: probabilities(head, features)),
    )


def identity_of(
    experiment: Experiment, trained: Trained, chosen: TapAtTime, train: Source
) -> dict:
    """All that decides what a head comes to, JSON-able."""
    return {
        "step": trained.step,
        "weights": trained.identity((chosen.tap,)),
        "tap": chosen.tap,
        "time": chosen.time.time,
        "images": of_source(train),
        "classes": list(train.class_names),
        "l2": experiment.settings.probe.l2,
        "seed": experiment.settings.seed,
    }


def check_training(train: Source) -> None:
    """Raises a UserError where no head can be fitted on `train`."""
    data_source.check_classes(train, "config.predict.train_count")
    found, classes = len(np.unique(train.labels)), len(train.class_names)
    if found < classes:
        raise UserError(
            f"config.predict.train_count: the {len(train)} training images used of "
            f"{train.name} show {found} of its {classes} classes"
        )


def _fit(
    experiment: Experiment, trained: Trained, chosen: TapAtTime, train: Source
) -> LogisticRegression:
    noise_key = experiment.stream("predict/head")
    (encoded,) = encode_set(
        trained.encoder((chosen.tap,)),
        trained.variables,
        trained.mesh,
        train,
        (chosen.time.time,),
        noise_key,
        experiment.settings.predict.batch_size,
    )
    features = encoded[chosen.tap]
    classes = len(train.class_names)
    head = logistic.fit(features, train.labels, classes, experiment.settings.probe.l2)
    if not head.converged:
        logging.warning("predict: stopped at gradient norm %.1e", head.gradient_norm)
    return head


def probabilities(
    head: LogisticRegression, features: Float[np.ndarray, "batch features"]
) -> Float[np.ndarray, "batch classes"]:
    """Softmax of the head's scores."""
    standard = (features.astype(np.float64) - head.mean) / head.scale
    return softmax(standard @ head.kernel + head.bias)


def softmax(
    scores: Float[np.ndarray, "batch classes"],
) -> Float[np.ndarray, "batch classes"]:
    """Rows that sum to 1."""
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def write(path: pathlib.Path, head: LogisticRegression, identity: dict) -> None:
    """Writes a head and what it was fitted on and with."""
    arrays = {name: getattr(head, name) for name in _ARRAYS}
    facts = {
        name: value
        for name, value in dataclasses.asdict(head).items()
        if name not in _ARRAYS
    }
    with replacing(path) as part, part.open("wb") as file:
        text = json.dumps({_IDENTITY: identity, "fit": facts})
        np.savez(file, **arrays, about=np.array(text))


def read(path: pathlib.Path, identity: dict) -> LogisticRegression | None:
    """The head at `path`; None where there is none of this identity.

    Raises:
      UserError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            arrays = {name: file[name] for name in _ARRAYS}
        if about[_IDENTITY] != identity:
            return None
        return LogisticRegression(**arrays, **about["fit"])
    except Exception as error:  # zip, numpy and JSON raise many kinds
        raise UserError(f"{path}: damaged; delete it, it is made again") from error
