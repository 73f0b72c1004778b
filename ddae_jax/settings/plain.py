"""Settings as plain values: for config.json, for identities of results, for pages."""

from collections.abc import Mapping
from typing import Any

from ddae_jax.settings import fields
from ddae_jax.settings.root import CHOSEN, Settings


def of_section(section: Any) -> dict[str, Any]:
    """Name of each declared field -> value, sections within sections included."""
    values = {name: getattr(section, name) for name in fields.declared(type(section))}
    return values | {
        name: of_section(getattr(section, name))
        for name in fields.sections(type(section))
    }


def of_chosen(settings: Settings, section: str) -> dict[str, Any]:
    """The same of "network", "process" or "sampler", with its name."""
    return {"name": settings.names[section]} | of_section(getattr(settings, section))


def of_settings(settings: Settings) -> dict[str, Any]:
    """Everything, as `schema.build` took it from a ConfigDict."""
    values = {name: getattr(settings, name) for name in fields.declared(Settings)}
    values |= {section: of_chosen(settings, section) for section in CHOSEN}
    for name in fields.sections(Settings):
        values[name] = of_section(getattr(settings, name))
    return values | {
        name: of_section(section) for name, section in settings.others.items()
    }


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Maps "section.field" to its value."""
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
