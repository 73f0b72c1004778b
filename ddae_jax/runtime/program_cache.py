"""Compiled programs stay on disk: the same command starts in seconds the next time.

jax's own cache, on where the user has not set it up: JAX_COMPILATION_CACHE_DIR names
another folder, JAX_ENABLE_COMPILATION_CACHE=false turns it off.
"""

import hashlib
import os
import pathlib
import platform
import time

import jax
from absl import logging

from ddae_jax.runtime import files

_FOLDER = "programs"
_BYTES = 1 << 30  # of all programs; the largest we know, DiT-XL/2's step, has 10 MB
_SECONDS = 0.02  # what compiles faster is not kept
_WRITING = 60  # seconds within which another run may be writing
_CPUINFO = pathlib.Path("/proc/cpuinfo")


def prepare() -> None:
    """Turns the cache on; without it where its folder cannot be used.

    Anyone who can write there can run code as this user, so that a folder which others
    can write is not used.
    """
    config = jax.config
    if (
        "JAX_COMPILATION_CACHE_DIR" in os.environ
        or config.jax_compilation_cache_dir
        or not config.jax_enable_compilation_cache
    ):
        return
    folder = files.cache_folder() / _FOLDER / _machine()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        if found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise PermissionError("others can write there")
        (folder / ".lockfile").touch()
        _remove_half_written(folder)
    except OSError as error:
        reason = error.strerror or error
        logging.info("programs are compiled anew: %s: %s", folder, reason)
        return
    config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ:
        config.update("jax_compilation_cache_max_size", _BYTES)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        config.update("jax_persistent_cache_min_compile_time_secs", _SECONDS)


def _machine() -> str:
    """A name for the kind of this processor.

    Programs for CPUs hold its instructions; a home folder may be seen by several kinds.
    """
    known = [platform.machine()]
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    for name in ("flags", "Features", "model name", "CPU part"):
        known += [line for line in lines if line.startswith(name)][:1]
    digest = hashlib.sha256("\n".join(known or lines).encode()).hexdigest()
    return f"{known[0]}-{digest[:12]}"


def _remove_half_written(folder: pathlib.Path) -> None:
    """Removes what a killed run left.

    jax writes a program, then when it was used: what lacks the second may be cut short,
    and without it jax 0.10.2 cannot write any more.
    """
    for program in folder.glob("*-cache"):
        used = program.with_name(program.name.removesuffix("cache") + "atime")
        if used.exists() and used.stat().st_size:
            continue
        if time.time() - program.stat().st_mtime > _WRITING:
            program.unlink(missing_ok=True)
