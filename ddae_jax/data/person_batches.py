"""P persons x K images of each a batch: a pure function of (seed, step)."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Int, Int32

from ddae_jax.data.person_images import PersonImages
from ddae_jax.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class PersonOrder:
    """The endless order of batches of `persons` x `images_each` images.

    An epoch is a permutation of the persons, cut into batches; fewer than `persons`
    are left over at its end, others in every epoch. The images of a person lie
    together in a batch, drawn without replacement.

    Attributes:
      seed: of all draws.
      images: of the training.
      persons: different ones, of a batch.
      images_each: of each of them.
      repeat: of a person of too few images, all are taken, then some again.
    """

    seed: int
    images: PersonImages
    persons: int
    images_each: int
    repeat: bool = False

    def __post_init__(self):
        source = self.images.source
        count = len(self.members)
        if self.persons > count:
            raise UserError(
                f"config.reid.persons: {self.persons} of the {count} persons of "
                f"{source.name}"
            )
        for place, members in enumerate(self.members):
            person, first = source.class_names[place], self.images.names[members[0]]
            if len(members) == 1:
                raise UserError(
                    f"{first}: the only training image of person {person}, who so has "
                    "no pair; config.reid.drop_single=True leaves such persons out"
                )
            if len(members) < self.images_each and not self.repeat:
                raise UserError(
                    f"config.reid.images_each: {self.images_each}, but person "
                    f"{person} has {len(members)} images ({first}); "
                    "config.reid.repeat_images=True takes some of them again"
                )

    @functools.cached_property
    def members(self) -> list[Int[np.ndarray, "_"]]:
        """The images of each person."""
        labels = self.images.source.labels
        order = np.argsort(labels, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)

    @property
    def steps_per_epoch(self) -> int:
        """Batches until every person, but the rest, was in one."""
        return len(self.members) // self.persons

    def batch(self, step: int) -> Int32[np.ndarray, "batch"]:
        """Returns the images of the global batch of optimiser step `step` (from 0)."""
        epoch, number = divmod(step, self.steps_per_epoch)
        # 0 and 1 keep the permutations' numbers apart from those of the images.
        generator = np.random.Generator(np.random.Philox([self.seed, 2 * epoch]))
        people = generator.permutation(len(self.members))
        chosen = people[number * self.persons : (number + 1) * self.persons]
        generator = np.random.Generator(np.random.Philox([self.seed, 2 * step + 1]))
        drawn = [self._draw(generator, self.members[person]) for person in chosen]
        return np.concatenate(drawn).astype(np.int32)

    def _draw(self, generator: np.random.Generator, members: np.ndarray) -> np.ndarray:
        rounds = -(-self.images_each // len(members))
        drawn = [generator.permutation(members) for _ in range(rounds)]
        return np.concatenate(drawn)[: self.images_each]

    def indices(
        self, positions: Int[np.ndarray, "batch"]
    ) -> Int32[np.ndarray, "batch"]:
        """Returns which images are at `positions` of the endless order."""
        steps, places = np.divmod(
            np.asarray(positions, np.int64), self.persons * self.images_each
        )
        result = np.empty(len(places), np.int32)
        for step in np.unique(steps):
            here = steps == step
            result[here] = self.batch(int(step))[places[here]]
        return result
