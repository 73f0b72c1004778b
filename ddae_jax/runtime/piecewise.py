"""A function result by result, instead of as one program.

An initialisation is hundreds of small, mostly equal parts that run once: one program of
them takes half a minute to compile, the parts, which share theirs, about a second.
"""

from collections.abc import Iterable, Iterator

from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun
from jaxtyping import Array


def needed(program: ClosedJaxpr) -> Iterator[tuple[list, set]]:
    """What each result of a traced program is computed from.

    Yields:
      the equations, in order; and their variables, arguments of the program included.
    """
    equations = program.jaxpr.eqns
    made_by = {
        variable: number
        for number, equation in enumerate(equations)
        for variable in equation.outvars
    }
    for result in program.jaxpr.outvars:
        yield _needed(result, equations, made_by)


def _needed(result, equations, made_by):
    numbers, found = set(), set(_variables([result]))
    waiting = list(found)
    while waiting:
        number = made_by.get(waiting.pop())
        if number is None or number in numbers:
            continue
        numbers.add(number)
        new = set(_variables(equations[number].invars)) - found
        found |= new
        waiting += new
    return [equations[number] for number in sorted(numbers)], found


def results(program: ClosedJaxpr, *arguments: Array) -> Iterator[Array]:
    """Computes the results of a traced program one after the other, each from what it
    needs alone.

    Args:
      arguments: flat, as `program` takes them.
    """
    outputs = program.jaxpr.outvars
    for result, (equations, _) in zip(outputs, needed(program), strict=True):
        alone = program.jaxpr.replace(eqns=equations, outvars=[result])
        yield jaxpr_as_fun(ClosedJaxpr(alone, program.consts))(*arguments)[0]


def _variables(atoms: Iterable) -> Iterator:
    return (atom for atom in atoms if not isinstance(atom, Literal))
