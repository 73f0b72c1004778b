"""Files that appear whole or not at all."""

import contextlib
import pathlib
import uuid
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a path to write to, which becomes `path` where the block succeeds.

    Whoever reads `path` meanwhile, or after a crash, finds what was there before. Two
    commands that write at once do not meet: each has a path of its own.
    """
    path = pathlib.Path(path)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
