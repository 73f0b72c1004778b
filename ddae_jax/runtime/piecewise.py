"""A function result by result, instead of as one program.

An initialisation is hundreds of small, mostly equal parts that run once: one program of
them takes half a minute to compile, the parts, which share theirs, about a second.
"""

from collections.abc import Iterable, Iterator

from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun
from jaxtyping import Array

from ddae_jax.runtime import compiler


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
    jaxpr = program.jaxpr
    given = dict(zip(jaxpr.constvars, program.consts, strict=True))
    given |= dict(zip(jaxpr.invars, arguments, strict=True))
    for result, (equations, _) in zip(jaxpr.outvars, needed(program), strict=True):
        values = dict(given)
        for equation in equations:
            found = _applied(jaxpr, equation, values)
            values |= zip(equation.outvars, found, strict=True)
        yield _value(result, values)


def _value(atom, values):
    return atom.val if isinstance(atom, Literal) else values[atom]


def _applied(jaxpr, equation, values):
    inner = equation.params.get("jaxpr")
    if equation.primitive.name in ("jit", "pjit") and isinstance(inner, ClosedJaxpr):
        return _part(inner, *(_value(atom, values) for atom in equation.invars))
    variables = list(dict.fromkeys(_variables(equation.invars)))
    alone = jaxpr.replace(
        constvars=[], invars=variables, outvars=equation.outvars, eqns=[equation]
    )
    return jaxpr_as_fun(ClosedJaxpr(alone, ()))(*(values[v] for v in variables))


# jax traces equal calls once, so that equal parts are the same object.
@compiler.jit(once=True, static_argnums=0)
def _part(program, *arguments):
    return jaxpr_as_fun(program)(*arguments)


def _variables(atoms: Iterable) -> Iterator:
    return (atom for atom in atoms if not isinstance(atom, Literal))
