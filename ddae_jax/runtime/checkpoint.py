"""Checkpoints of a run, through orbax: which are kept, and how they come back."""

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Sharding
from jaxtyping import Array, PyTree
from orbax.checkpoint import checkpoint_managers

from ddae_jax.errors import UserError
from ddae_jax.runtime import checksums, copy_notes, damage, working_copy

_ITEM = "default"  # orbax's name of a manager's only item
TEMPORARY = ".orbax-checkpoint-tmp"  # in its name of one that is being written


@dataclasses.dataclass(frozen=True)
class Keep:
    """Which checkpoints stay on disk.

    Attributes:
      latest: this many of the newest.
      every: also each whose step is a multiple of this; 0 for none.
      best: also the one of the lowest loss.
    """

    latest: int = 2
    every: int = 0
    best: bool = True


def _negative_loss(metrics: dict) -> float:
    return -metrics["loss"]


def manager(
    workdir: str | pathlib.Path, keep: Keep | None = None
) -> ocp.CheckpointManager:
    """Returns the orbax CheckpointManager of `workdir`/checkpoints.

    Args:
      keep: None to read only.
    """
    folder = pathlib.Path(workdir).absolute() / "checkpoints"
    if keep is None:
        with _no_warnings():  # orbax warns that what is read only is not written
            # A damaged one beside the one that is read shall not matter.
            options = ocp.CheckpointManagerOptions(
                read_only=True, lightweight_initialize=True
            )
            return ocp.CheckpointManager(folder, options=options)
    policies = [checkpoint_managers.LatestN(keep.latest)]
    if keep.every:
        policies.append(checkpoint_managers.EveryNSteps(keep.every))
    if keep.best:
        policies.append(checkpoint_managers.BestN(get_metric_fn=_negative_loss, n=1))
    options = ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
        best_fn=_negative_loss,  # without it orbax does not write the metrics
        best_mode="max",
        enable_async_checkpointing=True,
        cleanup_tmp_directories=True,  # what a killed run was writing
        async_options=ocp.AsyncOptions(
            post_finalization_callback=lambda: _add_checksums(folder)
        ),
    )
    return ocp.CheckpointManager(folder, options=options)


def _add_checksums(folder: pathlib.Path) -> None:
    """Orbax asks for it on process 0 when all but the last rename is done."""
    for unfinished in folder.glob(f"*{TEMPORARY}*"):
        checksums.write(unfinished)


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        logger.setLevel(level)


def save(
    checkpoints: ocp.CheckpointManager,
    step: int,
    state: PyTree[Array],
    loss: float,
    notes: dict[str, Any] | None = None,
) -> None:
    """Starts to write `state` in the background, with the loss that ranks it.

    Args:
      notes: JSON-able facts that `read_notes` gives back.
    """
    folder = pathlib.Path(checkpoints.directory)
    if copy_notes.root(folder) is not None:
        # The one before is in the store before orbax can remove it here.
        checkpoints.wait_until_finished()
        if jax.process_index() == 0:
            working_copy.push(folder)
    checkpoints.save(
        step,
        args=ocp.args.StandardSave(state),
        metrics={"loss": loss},
        force=True,
        custom_metadata=notes,
    )


def read_notes(checkpoints: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """Returns the notes that a checkpoint was saved with; empty where it has none."""
    return checkpoints.metadata(step).custom_metadata or {}


def restore(
    checkpoints: ocp.CheckpointManager,
    step: int,
    shapes: PyTree[jax.ShapeDtypeStruct],
    shardings: PyTree[Sharding],
) -> PyTree[Array]:
    """Reads a checkpoint onto the devices at hand, however many wrote it.

    Args:
      shapes: the tree of ShapeDtypeStructs.
      shardings: the tree of shardings that the arrays shall have.

    Raises:
      UserError: the checkpoint cannot be read.
    """
    abstract = _placed(shapes, shardings)
    working_copy.bring(pathlib.Path(checkpoints.directory) / str(step))
    lacking = _empty_and_lacking(checkpoints, step, abstract)
    if not lacking:
        return _read(checkpoints, step, ocp.args.StandardRestore(abstract))
    fields = {
        field.name: getattr(abstract, field.name)
        for field in dataclasses.fields(abstract)
        if field.name not in lacking
    }
    found = _read(checkpoints, step, ocp.args.StandardRestore(fields))
    return dataclasses.replace(abstract, **found)


def _empty_and_lacking(checkpoints, step, abstract) -> set[str]:
    """Attributes of the state that hold no array, and that the checkpoint has not.

    Those that were added after it was written.
    """
    if not dataclasses.is_dataclass(abstract):
        return set()
    names = [field.name for field in dataclasses.fields(abstract)]
    empty = {n for n in names if not jax.tree.leaves(getattr(abstract, n))}
    if not empty:
        return set()
    folder = pathlib.Path(checkpoints.directory) / str(step) / _ITEM
    try:
        # orbax warns that a checkpoint of a manager has no metadata of its own
        with _no_warnings(), ocp.StandardCheckpointer() as checkpointer:
            known = checkpointer.metadata(folder).item_metadata.tree
    except Exception:  # reading it will say what is wrong with it
        return set()
    return empty - set(known)


def restore_part(
    checkpoints: ocp.CheckpointManager,
    step: int,
    shapes: dict[str, PyTree[jax.ShapeDtypeStruct]],
    shardings: dict[str, PyTree[Sharding]],
) -> dict[str, PyTree[Array]]:
    """`restore` of some attributes of the state alone: the others are not read.

    Args:
      shapes: attribute, such as "ema", -> its tree of ShapeDtypeStructs.
      shardings: the same of shardings.

    Raises:
      UserError: the checkpoint cannot be read.
    """
    abstract = _placed(shapes, shardings)
    working_copy.bring(pathlib.Path(checkpoints.directory) / str(step))
    placing = ocp.checkpoint_utils.construct_restore_args(abstract)
    args = ocp.args.PyTreeRestore(abstract, restore_args=placing, partial_restore=True)
    found = _read(checkpoints, step, args)
    # What the checkpoint lacks comes back as it was asked for.
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        if not isinstance(leaf, jax.Array):
            where = pathlib.Path(checkpoints.directory) / str(step)
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UserError(f"checkpoint {where} cannot be read: it has no {name}")
    return found


def _placed(
    shapes: PyTree[jax.ShapeDtypeStruct], shardings: PyTree[Sharding]
) -> PyTree[jax.ShapeDtypeStruct]:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        shapes,
        shardings,
    )


def _read(
    checkpoints: ocp.CheckpointManager, step: int, args: ocp.args.CheckpointArgs
) -> PyTree[Array]:
    try:
        return checkpoints.restore(step, args=args)
    except Exception as error:
        first = str(error).strip().split("\n")[0][:200]
        where = pathlib.Path(checkpoints.directory) / str(step)
        raise UserError(f"checkpoint {where} cannot be read: {first}") from error


def has_any(workdir: str | pathlib.Path) -> bool:
    """Whether there is a checkpoint."""
    if not (pathlib.Path(workdir) / "checkpoints").is_dir():
        return False
    with manager(workdir) as checkpoints:
        return checkpoints.latest_step() is not None


def saved_steps(workdir: str | pathlib.Path) -> list[int]:
    """Returns the steps of all checkpoints, ascending.

    Raises:
      UserError: there is none.
    """
    folder = pathlib.Path(workdir) / "checkpoints"
    steps = []
    if folder.is_dir():
        with manager(workdir) as checkpoints:
            steps = sorted(checkpoints.all_steps())
    if not steps:
        raise UserError(f"{folder}: no checkpoint; run --task=pretrain first")
    return steps


def choose_step(workdir: str | pathlib.Path, step: int = -1) -> int:
    """Returns the checkpoint to read: `step`, or the latest intact one where it is -1.

    Raises:
      UserError: there is none, or not that one, or it is damaged.
    """
    folder = pathlib.Path(workdir) / "checkpoints"
    if step == -1:
        return damage.newest_intact(folder, saved_steps(workdir))
    chosen = choose_steps(workdir, (step,), "config.checkpoint.step")[0]
    if found := damage.find(folder, chosen):
        raise UserError(f"{found}; choose another config.checkpoint.step")
    return chosen


def choose_steps(
    workdir: str | pathlib.Path, steps: Sequence[int], field: str
) -> list[int]:
    """Returns `steps`, or those of all checkpoints where it is empty, ascending.

    Args:
      field: what errors call `steps`.

    Raises:
      UserError: there is no checkpoint, or not one of those.
    """
    saved = saved_steps(workdir)
    for step in steps:
        if step not in saved:
            known = ", ".join(map(str, saved))
            folder = pathlib.Path(workdir) / "checkpoints"
            raise UserError(f"{field}: no {step} in {folder}; known: {known}")
    return sorted(steps) if steps else saved
