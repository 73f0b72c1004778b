"""Every field of the config, from what it declares: what is beyond is one line."""

import itertools
import math

import pytest

from ddae_jax import main
from ddae_jax.diffusion import PROCESSES
from ddae_jax.errors import UserError
from ddae_jax.models import NETWORKS
from ddae_jax.settings import command_line, fields, schema
from tests.conftest import ROOT

# All fields there are: each network once, each process once.
CONFIGS = [
    schema.default(network, process)
    for network, process in itertools.zip_longest(NETWORKS, PROCESSES, fillvalue="")
    if network and process
] + [schema.default(network) for network in list(NETWORKS)[len(PROCESSES) :]]
FIELDS = {
    (path, config.network.name, config.process.name): (config, value, bounds)
    for config in CONFIGS
    for path, value, bounds in schema.reference(config)
    if config is CONFIGS[0] or path.split(".")[0] in schema.CHOSEN
}
HUGE = 10**40


def beyond(value, bounds):
    """Values that the bounds exclude, of the field's own kind."""
    one = value[0] if isinstance(value, tuple) and value else value
    if bounds.choices is not None and isinstance(one, str | tuple):
        yield "no such choice"
    if isinstance(one, bool):
        return
    if isinstance(one, str):
        yield "x" * (fields.LONGEST_TEXT + 1)
        yield "two\nlines"
    if isinstance(one, int | float):
        yield from (-HUGE, math.nan)
        if bounds.most != math.inf:
            yield from (HUGE, math.inf)
        for end, step in ((bounds.least, -1), (bounds.most, 1)):
            if end is not None and math.isfinite(end):
                whole = isinstance(one, int)
                yield end + step if whole else math.nextafter(end, step * math.inf)
        yield from (end for end in (bounds.above, bounds.below) if end is not None)


@pytest.mark.parametrize("key", FIELDS, ids="-".join)
def test_what_is_beyond_the_bounds_is_one_line(key):
    path = key[0]
    config, value, bounds = FIELDS[key]
    for given in beyond(value, bounds):
        copy = config.copy_and_resolve_references()
        *sections, field = path.split(".")
        section = copy
        for part in sections:
            section = section[part]
        with section.ignore_type():
            section[field] = (given,) if isinstance(value, tuple) else given
        with pytest.raises(UserError) as raised:
            schema.build(copy)
        message = str(raised.value)
        assert "\n" not in message and len(message) < 600
        assert field in message


def test_every_number_has_two_bounds_and_every_field_help():
    for (path, *_), (_, value, bounds) in FIELDS.items():
        assert bounds.help, path
        one = value[0] if isinstance(value, tuple) and value else value
        number = isinstance(one, int | float) and not isinstance(one, bool)
        if number and not bounds.choices:
            assert bounds.least is not None or bounds.above is not None, path
            assert bounds.most is not None or bounds.below is not None, path


GARBAGE = (
    *("", "-1", "nan", "inf", "-inf", "1e400", "9" * 400, "x" * 3000, "None"),
    *("True", "()", "((", "[[1", "(1,", "{}", "'", "\\", "1,2,3", "é", "--", "a=b"),
)


@pytest.mark.parametrize(
    "start", [*(pytest.param(n, marks=pytest.mark.slow) for n in (0, 2, 3)), 1]
)
def test_no_value_ends_in_anything_but_one_line(start, tmp_path, monkeypatch):
    """A quarter of the fields each; every field gets three of the values in turn."""
    monkeypatch.chdir(tmp_path)
    paths = [path for path, *_ in FIELDS if path.split(".")[0] not in schema.CHOSEN]
    values = itertools.cycle(GARBAGE)
    for number, path in enumerate(paths):
        chosen = list(itertools.islice(values, 4 - number % 2))
        if number % 4 != start:
            continue
        for value in chosen:
            words = [
                f"--config={ROOT / 'configs/digits.py'}",
                f"--config.{path}={value}",
            ]
            try:
                command_line.parse(["main", *words], main.define_flags)
            except UserError as error:
                assert "\n" not in str(error), words
