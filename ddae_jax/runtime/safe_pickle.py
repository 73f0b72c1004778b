"""Reads pickles that hold numpy arrays and plain containers, and nothing else.

A pickle is a program: it names functions, calls them and sets attributes. This reader
runs that program on a small machine of its own, so that no object of Python's or
numpy's is ever within its reach: a name becomes an inert marker, which only
`pickle_arrays.BUILDERS` and the builders of the caller understand, and attributes are
set on nothing. Work and memory grow with the size of the file, whatever is in it.
"""

import io
import pickletools
from collections.abc import Callable, Mapping

from ddae_jax.errors import UserError
from ddae_jax.runtime.pickle_arrays import (
    BUILDERS,
    Name,
    NoContentYet,
    RefusedError,
    Type,
    array_of_state,
    plain_key,
    type_of_state,
)

_MOST_NESTED = 50  # tuples in tuples: comparing them takes the stack of the system
_MOST_IN_TUPLE = 1 << 20  # leaves of nested tuples, which may share their parts
_PYTHON_2 = {"__builtin__": "builtins"}


def safe_unpickle(
    content: bytes,
    where: str,
    builders: Mapping[tuple[str, str], object] | None = None,
) -> object:
    """Unpickles numbers, text, bytes, plain containers, numpy's arrays and numbers.

    Arrays are read-only.

    Args:
      content: of the file.
      where: what errors call the file.
      builders: (module, name) -> what stands for it, beside numpy's own: a function or
        class that is called where the pickle calls the name, or a value. Nothing that
        it gives or does may depend on code in the file. Where it is a class with a
        `__setstate__`, its objects are given their state.

    Raises:
      UserError: the pickle asks for anything else, which is named, or is corrupt.
    """
    return unpickle_next(io.BytesIO(content), where, builders)


def unpickle_next(
    stream: io.BytesIO,
    where: str,
    builders: Mapping[tuple[str, str], object] | None = None,
    persistent_load: Callable[[object], object] | None = None,
) -> object:
    """`safe_unpickle` of one pickle in a stream, which is left after its end.

    Args:
      persistent_load: what an object outside the pickle becomes; None refuses it.
    """
    machine = _Machine(builders or {}, persistent_load, stream.getbuffer().nbytes)
    try:
        return machine.run(stream)
    except RefusedError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{where}: refused, the pickle asks for {reason}") from error
    except UserError:  # of a pickle inside this one
        raise
    except Exception as error:  # a damaged pickle can raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{where}: corrupt or truncated pickle ({reason})") from error


_MARK = object()


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self, lent, persistent_load, size):
        self.builders = {**lent, **BUILDERS}
        self.records = {kind for kind in lent.values() if isinstance(kind, type)}
        self.persistent_load = persistent_load
        self.stack = []
        self.memo = {}
        self.unfinished = {}  # id -> places in the memo of what gets its state yet
        self.tuples = {}  # id -> (the tuple, nesting, leaves)
        self.allowance = 8 * size + (1 << 16)  # of what builders may copy

    def run(self, stream):
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return self.pop()
            if opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name](argument))
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            else:
                raise RefusedError(f"the operation {opcode.name}")
        raise ValueError("it has no end")

    def top(self):
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("it takes more than it has put down")
        return self.stack[-1]

    def pop(self):
        value = self.top()
        if isinstance(value, NoContentYet):
            raise RefusedError("an array without content")
        return self.stack.pop()

    def pop_to_mark(self):
        values = []
        while self.stack and self.stack[-1] is not _MARK:
            values.append(self.pop())
        if not self.stack:
            raise ValueError("it takes more than it has put down")
        self.stack.pop()
        return values[::-1]

    def push_tuple(self, values):
        value = tuple(values)
        inner = [self.tuples.get(id(item), (None, 0, 1)) for item in value]
        nesting = 1 + max((nesting for _, nesting, _ in inner), default=0)
        leaves = 1 + sum(leaves for _, _, leaves in inner)
        if nesting > _MOST_NESTED or leaves > max(_MOST_IN_TUPLE, len(value) + 1):
            raise RefusedError("tuples nested too deeply")
        self.tuples[id(value)] = value, nesting, leaves
        self.stack.append(value)

    def pick(self, kind):
        """The container on top of the stack, into which something is put."""
        if not isinstance(self.top(), kind):
            raise RefusedError(f"items in a {type(self.top()).__name__}")
        return self.top()

    def put_items(self, target, values):
        if len(values) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[plain_key(key)] = value

    def append(self, values):
        self.pick(list).extend(values)

    def add(self, values):
        self.pick(set).update(map(plain_key, values))

    def remember(self, place):
        self.memo[int(place)] = value = self.top()
        if isinstance(value, NoContentYet | Type):
            self.unfinished.setdefault(id(value), []).append(int(place))

    def recall(self, place):
        self.stack.append(self.memo[int(place)])

    def name(self, module, name):
        key = (_PYTHON_2.get(module, module), name)
        if key not in self.builders:
            raise RefusedError(f"{module}.{name}")
        built = self.builders[key]
        self.stack.append(Name(*key) if callable(built) else built)

    def call(self, function, arguments):
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise RefusedError(f"a call of a {type(function).__name__}")
        key = function.module, function.name
        self.spend(arguments, text=key in BUILDERS)
        self.stack.append(self.builders[key](*arguments))

    def spend(self, value, text=True, depth=4):
        """Takes from the allowance what a builder copies that copies `value`.

        A file may ask a thousand times for a copy of one large value.

        Args:
          text: counts; not where builders keep it as it is: NVlabs' files give one
            source code to hundreds of objects.
          depth: to which values in values are copied.
        """
        countable = str | bytes if text else bytes
        self.allowance -= len(value) if isinstance(value, countable) else 1
        if self.allowance < 0:
            raise RefusedError("more copies of its values than it can need")
        if depth and isinstance(value, list | tuple | set | dict):
            for item in value.values() if isinstance(value, dict) else value:
                self.spend(item, text, depth - 1)

    def build(self):
        state, target = self.pop(), self.top()
        self.spend(state, text=False)
        if isinstance(target, NoContentYet):
            built = array_of_state(state)
        elif isinstance(target, Type):
            built = type_of_state(target, state)
        elif type(target) in self.records and "__setstate__" in vars(type(target)):
            target.__setstate__(state)
            return
        else:
            raise RefusedError(f"attributes of a {type(target).__name__}")
        self.stack[-1] = built
        for place in self.unfinished.pop(id(target), ()):
            if self.memo[place] is target:
                self.memo[place] = built

    def external(self, reference):
        if self.persistent_load is None:
            raise RefusedError("an object outside the file")
        self.stack.append(self.persistent_load(reference))


def _text(value):
    value.encode()  # half a surrogate pair cannot be shown
    return value


_CONSTANTS = {
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "MARK": lambda _: _MARK,
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    "EMPTY_SET": lambda _: set(),
    **dict.fromkeys(
        ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), int
    ),
    **dict.fromkeys(("FLOAT", "BINFLOAT"), float),
    # Strings of Python 2, which pickletools decodes.
    **dict.fromkeys(
        ("STRING", "BINSTRING", "SHORT_BINSTRING"), lambda text: text.encode("latin1")
    ),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), bytes),
    **dict.fromkeys(
        ("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), _text
    ),
}
"""Opcodes that put something new on the stack: argument -> value."""


def _set_item(machine, _):
    value, key = machine.pop(), machine.pop()
    machine.put_items(machine.pick(dict), [key, value])


def _set_items(machine, _):
    values = machine.pop_to_mark()
    machine.put_items(machine.pick(dict), values)


def _dict(machine, _):
    values, target = machine.pop_to_mark(), {}
    machine.put_items(target, values)
    machine.stack.append(target)


def _tuple_of(count):
    def step(machine, _):
        values = [machine.pop() for _ in range(count)]
        machine.push_tuple(values[::-1])

    return step


def _call(machine, _):
    arguments = machine.pop()
    machine.call(machine.pop(), arguments)


def _stack_global(machine, _):
    name, module = machine.pop(), machine.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise ValueError("a name that is no text")
    machine.name(module, name)


_STEPS = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    "DUP": lambda machine, _: machine.stack.append(machine.top()),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_to_mark()),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine.add(machine.pop_to_mark()),
    "DICT": _dict,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "EMPTY_TUPLE": _tuple_of(0),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "TUPLE": lambda machine, _: machine.push_tuple(machine.pop_to_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.recall),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "GLOBAL": lambda machine, both: machine.name(*both.split(" ", 1)),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _call,
    "NEWOBJ": _call,
    "BUILD": lambda machine, _: machine.build(),
    "PERSID": _Machine.external,
    "BINPERSID": lambda machine, _: machine.external(machine.pop()),
}
"""The other opcodes: (machine, argument)."""
