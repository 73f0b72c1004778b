"""What fields there are, for people: `--help`, and the page docs/settings.md.

python -m ddae_jax.settings.reference > docs/settings.md

writes help.txt beside this file, too: --help shows that, because the fields of networks
can only be asked where jax is imported, which takes seconds.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

from ddae_jax.settings import fields, schema
from ddae_jax.settings.fields import Bounds
from ddae_jax.settings.root import Settings

COMMAND = "python -m ddae_jax.settings.reference > docs/settings.md"
HELP = pathlib.Path(__file__).with_name("help.txt")
_INTRODUCTION = f"""\
# Settings

Every field of a config; `--config.SECTION.FIELD=VALUE` on the command line overrides
it, and `config.SECTION.FIELD = VALUE` in a config file sets it. Defaults are those of
the package: configs set others. Fields that name no section stand above all of them.
`None` is the absence of a value; bounds of several values are those of each.

The code makes this page out of the fields themselves:

    {COMMAND}
"""
_HEADER = ("| field | default | bounds or choices | help |", "|---|---|---|---|")


def help_text() -> str:
    """Every field of the config: default, bounds and meaning; what help.txt holds."""
    config = schema.default()
    lines = [
        f"  --config.{path}={value!r}  {bounds.help}"
        + (f" ({limits})" if (limits := bounds.wanted()) else "")
        + (f" [{', '.join(map(repr, bounds.choices))}]" if bounds.choices else "")
        for path, value, bounds in schema.reference(config)
    ]
    networks, processes = (
        ", ".join(schema.choices(config, section)) for section in ("network", "process")
    )
    return "\n".join(
        (
            "Fields of the config, with their defaults; the sections network, process "
            "and sampler are those of their names",
            f"(networks: {networks}; processes: {processes}):",
            *lines,
            "",
        )
    )


def page() -> str:
    """The page of all fields: a table for each section, network, process, sampler.

    What was registered from outside of this package is not on it.
    """
    parts = [_INTRODUCTION]
    for title, cls in _titled():
        if _ours(cls):
            parts.append("\n".join((f"## {title}\n", *_table(cls))) + "\n")
    return "\n".join(parts)


def _titled() -> Iterator[tuple[str, type]]:
    """Yields (title, the class that declares the fields), in the order of the page."""
    yield "Without a section", Settings
    for name, cls in schema.sections().items():
        yield f"`{name}`", cls
    config = schema.default()
    for section in ("network", "process"):
        for name, cls in schema.choices(config, section).items():
            yield f"`{section}` with `{section}.name={name}`", cls
    for process in schema.choices(config, "process"):
        samplers = schema.choices(schema.default(process=process), "sampler")
        for name, cls in samplers.items():
            yield f"`sampler` with `sampler.name={name}`, of `{process}`", cls


def _ours(cls: type) -> bool:
    """Whether this package declares its fields, or some of the sections in it."""
    return cls.__module__.startswith("ddae_jax.") or any(
        map(_ours, fields.sections(cls).values())
    )


def _declared(cls: type) -> dict[str, tuple[Any, Any, Bounds]]:
    """As `fields.declared_within`, without sections from outside."""
    found = fields.declared(cls)
    if cls is Settings:
        return found
    for section, inner in fields.sections(cls).items():
        if _ours(inner):
            within = fields.declared_within(inner)
            found |= {f"{section}.{name}": one for name, one in within.items()}
    return found


def _table(cls: type) -> Iterator[str]:
    yield from _HEADER
    for name, (_, value, bounds) in _declared(cls).items():
        cells = f"`{name}`", f"`{value!r}`", _possible(bounds), bounds.help
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _possible(bounds: Bounds) -> str:
    """Bounds, choices, the form of a text and the number of values, in words."""
    low, high = bounds.lengths
    parts = [bounds.wanted()]
    if bounds.choices is not None:
        parts.append(", ".join(f"`{choice!r}`" for choice in bounds.choices))
    if bounds.pattern is not None:
        parts.append(f"of the form `{bounds.pattern}`")
    if bounds.lengths != Bounds("").lengths:
        parts.append(f"{low} to {high} values" if low < high else f"{low} values")
    return "; ".join(part for part in parts if part)


if __name__ == "__main__":
    HELP.write_text(help_text())
    print(page(), end="")
