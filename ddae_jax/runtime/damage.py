"""Checkpoints with damaged files: named, and the newest one that is intact is used."""

import pathlib
import shutil
from collections.abc import Sequence

import jax
from absl import logging

from ddae_jax.errors import UserError
from ddae_jax.runtime import checksums, copy_notes, parallel, working_copy

ASIDE = ".damaged"  # added to the names of those that are set aside


def find(folder: pathlib.Path, step: int) -> str | None:
    """One line that names a damaged file of a checkpoint; None where all are intact.

    All processes ask, each reads a share of the files, and all hear of it.

    Args:
      folder: of the checkpoints.
    """
    step_folder = folder / str(step)
    working_copy.bring(step_folder)
    found = checksums.find_damage(step_folder, jax.process_index(), jax.process_count())
    if parallel.all_processes(found is None):
        return None
    return f"checkpoint {step_folder} is damaged: {found or 'see the other processes'}"


def newest_intact(folder: pathlib.Path, steps: Sequence[int]) -> int:
    """The newest intact one of the checkpoints at `steps`, ascending; names the others.

    Raises:
      UserError: none is intact.
    """
    intact, damages = _search(folder, steps)
    for line in damages.values():
        logging.warning("%s; reading step %d instead", line, intact)
    return intact


def tidy(folder: pathlib.Path, every: int = 0) -> None:
    """Makes sure that the newest checkpoint is intact, before a run goes on from it.

    Newer ones that are damaged are renamed. Older ones that lack a file, because a run
    was killed while it removed them, are removed: orbax would keep them for ever.

    Args:
      every: steps that are multiples of it were to stay: they are renamed, too.

    Raises:
      UserError: none is intact.
    """
    steps = sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())
    if not steps:
        return
    intact, damages = _search(folder, steps)
    for line in damages.values():
        logging.warning("%s; set aside, using step %d", line, intact)
    # Of those on an object store, the copy has the files that were read; they are
    # removed whole.
    complete = copy_notes.root(folder) is not None
    parallel.all_processes(True)  # all have looked
    if jax.process_index() == 0:
        for step in steps:
            older = step < intact and not complete
            lacks = older and checksums.lacks_files(folder / str(step))
            if step in damages or (lacks and every and step % every == 0):
                aside = folder / f"{step}{ASIDE}"
                shutil.rmtree(aside, ignore_errors=True)
                (folder / str(step)).rename(aside)
            elif lacks:
                shutil.rmtree(folder / str(step))
    parallel.all_processes(True)


def _search(folder, steps) -> tuple[int, dict[int, str]]:
    """(newest intact step, newer step -> its damage)."""
    damages = {}
    for step in reversed(steps):
        line = find(folder, step)
        if line is None:
            return step, damages
        damages[step] = line
    raise UserError(
        f"{damages[steps[-1]]}; no other is intact: restore its files, or remove "
        f"{folder} to begin anew"
    )
