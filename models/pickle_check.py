"""The pickle inside a PyTorch file, followed opcode by opcode before `torch.load` may have it.

`torch.load(weights_only=True)` runs no code of a file's. Yet a few hundred bytes can make it fill the memory or never
end: `bytearray(10**10)`, a dict key of tuples within tuples (its hash takes 2^n steps), a tensor said to be larger than
its storage. Here stand-ins take the place of tensors. What PyTorch writes for dense tensors, numbers, text and plain
containers passes; all else is refused.
"""

import pickletools
from collections import OrderedDict
from typing import Any, BinaryIO, NamedTuple, NoReturn

import torch

BUDGET = 1_000_000  # steps of about a microsecond; a training checkpoint of the paper's network takes 143,000
COST_OF_OBJECT = 8  # steps that torch.load needs to look up or build an object, beside its opcodes
MAX_DIMS = 64  # PyTorch's own limit in most operations
ITEM_BYTES = {
    **dict.fromkeys(("ByteStorage", "CharStorage", "BoolStorage", "UntypedStorage"), 1),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    **dict.fromkeys(("QInt8Storage", "QUInt8Storage"), 1),
    **{"QInt32Storage": 4, "ComplexDoubleStorage": 16},
}
NOT_DENSE = {
    "torch._utils _rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils _rebuild_qtensor": "a quantised tensor",
    "torch._utils _rebuild_meta_tensor_no_storage": "a tensor without values (of the meta device)",
    "torch._utils _rebuild_nested_tensor": "a nested tensor",
    "torch._utils _rebuild_parameter_with_state": "a parameter with attributes",
    "torch._utils _rebuild_wrapper_subclass": "a tensor of a class of its own",
    "torch._tensor _rebuild_from_type_v2": "a tensor of a class of its own, or with attributes",
    "torch._utils _rebuild_device_tensor_from_numpy": "a tensor of a device that is not here",
    "torch._utils _rebuild_device_tensor_from_cpu_tensor": "a tensor of a device that is not here",
}
CALLED = {
    "collections OrderedDict", "collections Counter", "_codecs encode", "numpy dtype", "torch Size", "torch device",
    "torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter", "torch.serialization _get_layout",
    "numpy.core.multiarray scalar", "numpy._core.multiarray scalar",
    "__builtin__ bytearray", "__builtin__ set", "__builtin__ complex",
    "builtins bytearray", "builtins set", "builtins complex",
}  # fmt: skip
CLASSES = {"torch Tensor", "torch._tensor Tensor", "torch.nn.parameter Parameter"}  # named, never called
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
VALUES = {"BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "LONG1"}


class Refused(Exception):
    """A file that is not loaded. The text says what is wrong and what to do; it is not yet fit for printing."""


class Global(NamedTuple):
    """A function or class that the file names, as 'module name'."""

    name: str


class StorageType(NamedTuple):
    """A class of storages: the bytes that one element takes."""

    item_bytes: int


class Storage(NamedTuple):
    """What the file says of a storage: how many elements, and the bytes of each."""

    elements: int
    item_bytes: int

    @property
    def nbytes(self) -> int:
        return self.elements * self.item_bytes


class StandIn(NamedTuple):
    """In place of an object that would be built; of a kind: 'tensor', 'number' (numpy's), 'numpy dtype', 'other'."""

    kind: str


class PickleCheck:
    """Follows the pickles of one file, which share one budget of steps.

    Attributes:
        storages: the storages that were named so far, by their keys. Their sizes are the file's claim alone.
    """

    def __init__(self):
        self.storages: dict[str, Storage] = {}
        self._left = BUDGET
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []

    def follow(self, file: BinaryIO) -> Any:
        """What the pickle at the file's position holds, with stand-ins; the file is then behind it.

        Raises:
            Refused: it holds or does something that no plain checkpoint needs.
            ValueError, IndexError, KeyError, struct.error, ...: it is no pickle.
        """
        self._stack, self._marked = [], []
        memo: dict[Any, Any] = {}
        for opcode, argument, _ in pickletools.genops(file):
            self._spend(1)
            name = opcode.name
            if name in VALUES:
                self._stack.append(argument)
            elif name in CONSTANTS:
                self._stack.append(CONSTANTS[name])
            elif name in ("BINGET", "LONG_BINGET"):
                self._stack.append(memo[argument])
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = self._stack[-1]
            elif name == "STOP":
                break
            elif name != "PROTO":
                self._do(name, argument)
        return self._stack.pop()

    def _do(self, name: str, argument) -> None:
        """The opcodes that name, build and fill objects."""
        stack = self._stack
        match name:
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "MARK":
                self._marked.append(stack)
                self._stack = []
            case "TUPLE":
                items = tuple(self._pop_to_mark())
                self._stack.append(items)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                start = len(stack) - int(name[-1])
                stack[start:] = [tuple(stack[start:])]
            case "APPEND":
                self._extend([stack.pop()])
            case "APPENDS":
                self._extend(self._pop_to_mark())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._set([key, value])
            case "SETITEMS":
                self._set(self._pop_to_mark())
            case "GLOBAL":
                self._spend(COST_OF_OBJECT)
                stack.append(_known(argument))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self._call(function, arguments))
            case "BUILD":
                state = stack.pop()
                _check_state(stack[-1], state)
            case _:
                raise _foreign(f"opcode {name}")

    def _spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise Refused("refused: it describes more objects than any checkpoint needs; ask for a plain state dict")

    def _pop_to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise _foreign("items for something that is no list")
        target.extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) not in (dict, OrderedDict) or len(items) % 2:
            raise _foreign("items for something that is no dict")
        for key in items[::2]:
            _check_key(key)
        target.update(zip(items[::2], items[1::2], strict=True))

    def _storage(self, identity) -> Storage:
        """The storage of a persistent id: of five parts, or six in old files (the last was for views of storages)."""
        self._spend(COST_OF_OBJECT)
        match identity:
            case ("storage", StorageType(item_bytes), str() as key, str(), int() as count, *view) if not any(view):
                storage = Storage(count, item_bytes)
            case _:
                raise _foreign("a persistent object that is no storage")
        if not key.isascii() or count < 0 or self.storages.setdefault(key, storage) != storage:
            raise Refused("damaged: a storage has no clear name or size; fetch it again")
        return storage

    def _call(self, function, arguments) -> Any:
        """What a known function gives for arguments as PyTorch writes them."""
        if type(function) is not Global or type(arguments) is not tuple:
            raise _foreign("a call of something that is no function")
        self._spend(COST_OF_OBJECT + sum(len(a) for a in arguments if isinstance(a, (str, bytes, tuple, list, dict))))
        if function.name in NOT_DENSE:
            of = repr(self._stack[-1]) if self._stack and type(self._stack[-1]) is str else "a value"
            raise Refused(f"{of} is {NOT_DENSE[function.name]}; only dense ones are read: save plain tensors")
        match function.name.split(" ")[1], arguments:
            case "OrderedDict", ():
                return OrderedDict()
            case "encode", (str() as text, "latin1"):
                return text.encode("latin1")
            case "Size", (tuple() as sizes,):
                return sizes
            case "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3", (Storage() as storage, *rest):
                _check_tensor(storage, *rest)
                return StandIn("tensor")
            case "_rebuild_parameter", (StandIn("tensor") as tensor, bool(), dict()):
                return tensor
            case "dtype", ("f8" | "f4" | "i8", False, True):
                return StandIn("numpy dtype")
            case "scalar", (StandIn("numpy dtype"), bytes()):
                return StandIn("number")
            case "set", (list() as items,):
                for item in items:
                    _check_key(item)
                return StandIn("other")
            case (
                ("Counter", () | (dict(),))
                | ("bytearray", () | (bytes(),))
                | ("complex", (float(), float()))
                | ("device", (str(),) | (str(), int()))
                | ("_get_layout", (str(),))
            ):
                return StandIn("other")
        raise _foreign(f"an unusual call of {function.name}")


def _known(text: str) -> Any:
    """What stands for a global, 'module name'."""
    module, _, name = text.rpartition(" ")
    if name in ITEM_BYTES and module in ("torch", "torch.cuda", "torch.storage"):
        return StorageType(ITEM_BYTES[name])
    if module == "torch" and isinstance(found := vars(torch).get(name), (torch.dtype, torch.qscheme)):
        return found
    if text in CALLED or text in NOT_DENSE or text in CLASSES:
        return Global(text)
    raise _foreign(text.replace(" ", "."))


def _check_tensor(storage: Storage, offset, size, stride, *rest) -> None:
    """See that a tensor lies within its storage: PyTorch would make the storage larger otherwise."""
    match rest:
        case () | (bool(), dict()):  # whether it takes a gradient, and its hooks
            item_bytes = storage.item_bytes
        case (bool(), dict(), torch.dtype() as dtype):  # of the newer types, whose storages are of bytes
            item_bytes = max(dtype.itemsize, storage.item_bytes)
        case _:
            raise _foreign("an unusual tensor")
    if type(size) is not tuple or type(stride) is not tuple or not len(size) == len(stride) <= MAX_DIMS:
        raise Refused("damaged: a tensor has no clear shape; fetch it again")
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in (offset, *size, *stride)):
        raise Refused("damaged: a tensor has no clear shape; fetch it again")
    count = 0 if 0 in size else 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if (offset + count) * item_bytes > storage.nbytes:
        raise Refused("damaged: a tensor is larger than what is stored of it; fetch it again")


def _check_key(key) -> None:
    """A key, or an item of a set, must be hashed in one step, and not collide at will as large integers do."""
    match key:
        case None | str() | bytes() | float() | StandIn("number"):
            return
        case int() if abs(key) < 1 << 63:
            return
    raise _foreign("a key that is neither text nor a number")


def _check_state(target, state) -> None:
    """Attributes are for state dicts, which carry their version, and numpy's types, which carry their byte order."""
    match target, state:
        case OrderedDict(), {"_metadata": _} if len(state) == 1:
            return
        case StandIn("numpy dtype"), (3, "<" | ">", None, None, None, -1, -1, 0):
            return
    raise _foreign("attributes for an object")


def _foreign(what: str) -> NoReturn:
    raise Refused(
        f"refused: not a checkpoint, or it carries code or objects other than tensors and numbers ({what}); "
        "ask its author for a plain state dict"
    )
