"""The machine that runs PyTorch's pickles: our own interpreter of their opcodes.

A pickle is a program for a machine with a stack, a memo and the power to import and call anything.
This machine imports nothing and calls only what torch_objects.ALLOWED lists. The opcodes and the
forms of their arguments are those of the standard library's disassembler, which explains them:
https://github.com/python/cpython/blob/main/Lib/pickletools.py. Senseless programs raise ValueError,
TypeError, IndexError or OverflowError, which torch_files.py words for the user.
"""

import io
import pickletools
from collections.abc import Callable
from typing import Any

from minidl.io.torch_objects import (
    ALLOWED,
    FIX,
    REASONS,
    Call,
    Namespace,
    NumpyArray,
    NumpyDtype,
    fill,
    key,
    must,
)

MAXIMUM_OPCODES = 2_000_000  # each makes at most some 300 bytes of objects: 600 MB
MAXIMUM_BITS = 2040  # of an integer: what LONG1 holds

OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
LINES = {"GLOBAL": 2, "INST": 2, "PERSID": 1, "STRING": 1}  # arguments that are lines of text
PUSHED = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8"
    .split()
)  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
NEW: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
PUTS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
GETS = ("GET", "BINGET", "LONG_BINGET")
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
MARKED = ("TUPLE", "LIST", "FROZENSET", "DICT", "APPENDS", "SETITEMS", "ADDITEMS", "POP_MARK")
IGNORED = ("PROTO", "FRAME")


class Budget:
    """What may still be made of a file: `amount` bytes, a value counting as 64."""

    def __init__(self, amount: int) -> None:
        self.amount = self.left = amount

    def spend(self, amount: int) -> None:
        """Raise ValueError when more is made of a file than its size can explain."""
        self.left -= amount
        must(self.left >= 0, f"its contents grow to over {self.amount} bytes")

    def spend_on(self, values: Any) -> None:
        """Pay for a use of `values`, which may all be one that a few bytes of the file repeat."""
        for value in values:
            if isinstance(value, (str, bytes, bytearray)):
                self.spend(len(value))
            elif isinstance(value, (tuple, list, dict, set, frozenset)):
                self.spend(64 * len(value))


def _line(file: io.BytesIO) -> str:
    line = file.readline()
    must(line.endswith(b"\n"), "its pickle is cut short", line)
    return line[:-1].decode()


class Machine:
    """One pickle's run: the stack, the stacks below its open marks, the memo.

    `persistent` turns a persistent id (a storage's, in PyTorch's files) into its value.
    """

    def __init__(self, budget: Budget, persistent: Callable[[Any], Any]) -> None:
        self.budget, self.persistent = budget, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: io.BytesIO) -> Any:
        """Run the pickle that begins where `file` stands -> its value; `file` is left behind it."""
        for _ in range(MAXIMUM_OPCODES):
            code = file.read(1)
            must(code in OPCODES, "its pickle is cut short or has an unknown opcode", code)
            name, form, argument = OPCODES[code].name, OPCODES[code].arg, None
            if name == "STOP":
                return self.stack.pop()
            if name in LINES:
                argument = " ".join(_line(file) for _ in range(LINES[name]))
            elif form is not None:
                argument = form.reader(file)
            self.step(name, argument)
        raise ValueError(f"its pickle has over {MAXIMUM_OPCODES} opcodes")

    def step(self, name: str, argument: Any) -> None:
        """Do what one opcode says."""
        if name in PUSHED:
            ok = type(argument) is not int or argument.bit_length() <= MAXIMUM_BITS
            must(ok, f"its pickle has an integer of over {MAXIMUM_BITS} bits")
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in NEW:
            self.stack.append(NEW[name]())
        elif name in PUTS:
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name in GETS:
            must(argument in self.memo, "its pickle gets what it has not put", argument)
            self.stack.append(self.memo[argument])
        elif name in TUPLES:
            self.stack.append(tuple([self.stack.pop() for _ in range(TUPLES[name])][::-1]))
        elif name == "MARK":
            self.below.append(self.stack)
            self.stack = []
        elif name in MARKED:
            getattr(self, f"op_{name.lower()}")(self.marked())
        elif name not in IGNORED:
            action = getattr(self, f"op_{name.lower()}", None)
            if action is None:
                raise ValueError(f"its pickle's opcode {name} {argument!r:.200} is refused: {FIX}")
            action() if argument is None else action(argument)

    def marked(self) -> list[Any]:
        """What was pushed since the last mark; the stack is the one below it again."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def op_pop(self) -> None:
        self.stack.pop() if self.stack else self.marked()

    def op_pop_mark(self, items: list[Any]) -> None:
        """The items are gone."""

    def op_dup(self) -> None:
        self.stack.append(self.stack[-1])

    def op_tuple(self, items: list[Any]) -> None:
        self.stack.append(tuple(items))

    def op_list(self, items: list[Any]) -> None:
        self.stack.append(items)

    def op_frozenset(self, items: list[Any]) -> None:
        self.stack.append(frozenset(map(key, items)))

    def op_dict(self, items: list[Any]) -> None:
        self.stack.append({})
        self.op_setitems(items)

    def op_append(self) -> None:
        self.op_appends([self.stack.pop()])

    def op_appends(self, items: list[Any]) -> None:
        must(type(self.stack[-1]) is list, "its pickle appends to what is no list")
        self.stack[-1].extend(items)

    def op_setitem(self) -> None:
        self.op_setitems([self.stack.pop(), self.stack.pop()][::-1])

    def op_setitems(self, items: list[Any]) -> None:
        ok = type(self.stack[-1]) is dict and len(items) % 2 == 0
        must(ok, "its pickle sets items of what is no dict, or a key without a value")
        fill(self.stack[-1], zip(items[::2], items[1::2]))

    def op_additems(self, items: list[Any]) -> None:
        must(type(self.stack[-1]) is set, "its pickle adds members to what is no set")
        self.stack[-1].update(map(key, items))

    def op_global(self, argument: str) -> None:
        self.stack.extend(argument.split(" ", 1))
        self.op_stack_global()

    def op_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        must(type(module) is type(name) is str, "its pickle asks for a name that is no text", name)
        if (module, name) not in ALLOWED:
            shown = f"{module[:200]}.{name[:200]}"
            reason = next((text for part, text in REASONS.items() if part in shown), FIX)
            raise ValueError(f"its pickle asks for {shown}, which is refused: {reason}")
        self.stack.append(ALLOWED[module, name])

    def op_reduce(self) -> None:
        arguments, call = self.stack.pop(), self.stack.pop()
        ok = type(call) is Call and type(arguments) is tuple
        must(ok, f"its pickle calls what is no function: {FIX}", call)
        self.budget.spend_on(arguments)
        try:
            self.stack.append(call.function(*arguments))
        except TypeError as error:
            raise ValueError(f"its pickle gives {call.name} wrong arguments: {error}") from error

    op_newobj = op_reduce

    def op_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is dict:  # an OrderedDict's attributes, as a state_dict's _metadata
            return
        ok = isinstance(target, (Namespace, NumpyDtype, NumpyArray))
        must(ok, f"its pickle sets attributes of what has none: {FIX}", target)
        self.budget.spend_on(state if type(state) is tuple else [state])
        target.build(state)

    def op_binpersid(self) -> None:
        self.op_persid(self.stack.pop())

    def op_persid(self, name: Any) -> None:
        self.budget.spend_on(name if type(name) is tuple else [name])
        self.stack.append(self.persistent(name))
