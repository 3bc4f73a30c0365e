"""The identity of code: a canonical hash of a function and of the user's code that it reaches.

What counts: bytecode, constants, names, defaults, closure values, and, through globals, the values and
helpers that the code loads, and theirs. What does not: file names, line numbers, blank lines, comments. Code
of the standard library and of installed distributions counts by module, qualified name and version. A hash is
made anew for each submit, because globals change between submits (a notebook); what belongs to a code object
alone is kept.

Theory of operation. Everything that is code (functions, classes, tasks) becomes a `_Description`: canonical
bytes, and the code that these refer to, in the order of their mention. The hash of a root walks from
description to description, numbering them in the order they are found; so cycles need nothing special, and no
walk recurses from helper to helper.
"""

from __future__ import annotations

import builtins
import dis
import functools
import sys
import types
from array import array
from dataclasses import dataclass
from hashlib import blake2b
from marshal import dumps
from typing import Any, Final

from cascade_dist.graph.encoding import DIGEST_SIZE, VERSION, Encoder, Unencodable
from cascade_dist.graph.installed import installed_name, is_installed, version_of
from cascade_dist.language.lazy import LazyResult
from cascade_dist.language.resources import Resource
from cascade_dist.language.task import Task

__all__ = ["CodeHash", "CodeHasher", "loads_of"]

_ENTRIES_MAX: Final = 10_000
_REACH_MAX: Final = 100_000
"""So many functions and classes may one function reach."""
_REFERENCE: Final = b"\xff"
_UNDEFINED: Final = b"\xfe"
_EMPTY_CELL: Final = b"\xfd"
_BUILTIN: Final = b"\xfc"
_IGNORED: Final = frozenset(
    "__module__ __qualname__ __dict__ __weakref__ __doc__ __firstlineno__ __static_attributes__ "
    "__annotate__ __annotate_func__ __annotations_cache__ __abstractmethods__ _abc_impl".split()
)
"""What a class carries beside what its author wrote."""


@dataclass(frozen=True, slots=True)
class CodeHash:
    """The hash of some code.

    Attributes:
        digest: 16 bytes; what cannot be hashed counts by its type.
        reason: what cannot be hashed, for people; empty when the digest covers everything.
    """

    digest: bytes
    reason: str


class _Description:
    __slots__ = ("content", "owner", "reason", "references")

    def __init__(self, owner: object, content: bytes, references: list[Any], reason: str) -> None:
        self.owner = owner  # kept, because descriptions are found by its id
        self.content = content
        self.references = references
        self.reason = reason


class _Entry:
    """What belongs to a code object alone: a digest, and what it loads by name."""

    __slots__ = ("chains", "code", "digest", "imports", "lone")

    def __init__(self, code: types.CodeType) -> None:
        self.code = code
        self.lone: CodeHash | None = None
        """The hash of a function that has nothing but this code, once one was hashed."""
        hasher = blake2b(digest_size=DIGEST_SIZE)
        chains: dict[tuple[str, ...], None] = {}
        imports: dict[tuple[str, str], None] = {}
        _read_code(code, hasher, chains, imports)
        self.digest = hasher.digest()
        self.chains = tuple(chains)
        self.imports = tuple(imports)


_entries: dict[int, _Entry] = {}


def _entry_of(code: types.CodeType) -> _Entry:
    entry = _entries.get(id(code))
    if entry is None:
        if len(_entries) >= _ENTRIES_MAX:
            _entries.clear()
        entry = _entries[id(code)] = _Entry(code)
    return entry


def loads_of(code: types.CodeType) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, str], ...]]:
    """What code loads by name: globals, each with the attributes taken from it, and imports."""
    entry = _entry_of(code)
    return entry.chains, entry.imports


def _lone_entry(owner: Any) -> _Entry | None:
    """The entry of a user's function that has and reaches nothing but its own code; else None.

    Two such functions with one code have one hash, now and later, so it need not be made again.
    """
    if type(owner) is not types.FunctionType:
        return None
    if owner.__defaults__ is not None or owner.__kwdefaults__ is not None or owner.__closure__ is not None:
        return None
    module = owner.__module__
    if owner.__dict__ or type(module) is not str or owner.__globals__.get("__name__") != module:
        return None
    entry = _entry_of(owner.__code__)
    return None if entry.chains or entry.imports or is_installed(module) else entry


def _read_code(code: types.CodeType, hasher: Any, chains: dict[Any, None], imports: dict[Any, None]) -> None:
    """Feeds a code object and those within it to a hasher, and collects what they load."""
    head = (
        code.co_name,
        code.co_argcount,
        code.co_posonlyargcount,
        code.co_kwonlyargcount,
        code.co_flags,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        code.co_code,
        code.co_exceptiontable,
        len(code.co_consts),
    )
    hasher.update(dumps(head, VERSION))
    encoder = _Constants()
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            hasher.update(_REFERENCE)
            _read_code(constant, hasher, chains, imports)
        else:
            out = bytearray()
            encoder.write(constant, out)
            hasher.update(out)
    _read_loads(code, chains, imports)


def _read_loads(code: types.CodeType, chains: dict[Any, None], imports: dict[Any, None]) -> None:
    """Collects the globals that code loads, each with the attributes taken from it: ``module.helper``."""
    chain: list[str] = []
    module = ""
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        if chain and name in ("LOAD_ATTR", "LOAD_METHOD"):
            chain.append(instruction.argval)
            continue
        if chain:
            chains[tuple(chain)] = None
            chain = []
        if name in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
            chain = [instruction.argval]
        elif name == "IMPORT_NAME":
            module = instruction.argval
            imports[module, ""] = None
        elif name == "IMPORT_FROM":
            imports[module, instruction.argval] = None
    if chain:
        chains[tuple(chain)] = None


class CodeHasher:
    """Hashes code for one submit: a helper is looked at once, whoever reaches it."""

    def __init__(self) -> None:
        self._descriptions: dict[int, _Description] = {}
        self._hashes: dict[int, CodeHash] = {}
        self._reader: _Reader | None = None

    def hash(self, code: Any) -> CodeHash:
        """The hash of a function, a task, a class or another callable."""
        found = self._hashes.get(id(code))
        if found is None:
            entry = _lone_entry(code)
            if entry is None:
                found = self._walk(code)
            elif entry.lone is None:
                found = entry.lone = self._walk(code)
            else:
                found = entry.lone
            self._hashes[id(code)] = found
        return found

    def _walk(self, root: Any) -> CodeHash:
        hasher = blake2b(digest_size=DIGEST_SIZE)
        numbers = {id(root): 0}
        queue = [root]
        reason = ""
        for owner in queue:  # grows while it is walked
            description = self._descriptions.get(id(owner))
            if description is None:
                description = self._descriptions[id(owner)] = self._describe(owner)
            hasher.update(description.content)
            if description.references:
                places = array("Q")
                for reference in description.references:
                    number = numbers.get(id(reference))
                    if number is None:
                        if len(queue) >= _REACH_MAX:
                            return CodeHash(hasher.digest(), f"{_called(root)} reaches too much code")
                        number = numbers[id(reference)] = len(queue)
                        queue.append(reference)
                    places.append(number)
                hasher.update(places.tobytes())
            if description.reason and not reason:
                reason = description.reason
        return CodeHash(hasher.digest(), reason)

    def _describe(self, owner: Any) -> _Description:
        reader = self._reader
        if reader is None:
            reader = self._reader = _Reader()
        reader.begin()
        try:
            reader.read(owner)
        except RecursionError:
            reader.reason = reader.reason or f"what {_called(owner)} reaches is nested too deeply"
        content = reader.out
        content += len(content).to_bytes(8, "little")
        content += len(reader.references).to_bytes(8, "little")
        return _Description(owner, bytes(content), reader.references, reader.reason)


class _Constants(Encoder):
    """Writes the constants of code objects, which are plain values."""

    def unknown(self, value: Any, out: bytearray) -> None:
        raise Unencodable(f"a constant {value!r}")


class _Reader(Encoder):
    """Makes descriptions, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.begin()

    def begin(self) -> None:
        """Starts a description."""
        self.out = bytearray()
        self.references = []
        self.reason = ""
        self._where: tuple[str, ...] = ()

    def reference(self, value: Any, out: bytearray) -> None:
        self.references.append(value)

    def lazy(self, value: LazyResult[Any], out: bytearray) -> None:
        self._spoil("a lazy result, which cannot travel in code")

    def unknown(self, value: Any, out: bytearray) -> None:
        kind = type(value)
        self._spoil(f"a {kind.__module__}.{kind.__qualname__}, whose content cannot be hashed")
        super().unknown(value, out)

    def _spoil(self, what: str) -> None:
        self.reason = self.reason or f"{' '.join(self._where)} is or holds {what}"

    def _refer(self, value: Any) -> None:
        self.out += _REFERENCE
        self.references.append(value)

    def _value(self, value: Any, *where: str) -> None:
        self._where = where
        self.write(value, self.out)

    def read(self, owner: Any) -> None:
        """Describes a function, class, task, module or other object."""
        named = installed_name(owner)
        if named is not None:
            self.out += dumps(("installed", *named), VERSION)
        elif isinstance(owner, types.FunctionType):
            self._read_function(owner)
        elif isinstance(owner, Task):
            self.out += dumps("task", VERSION)
            self._refer(owner.func)
            options = owner.options()
            self._value([(name, options[name]) for name in sorted(options)], "an option of", owner.name)
        elif isinstance(owner, Resource):
            self.out += dumps(("resource", owner.name, owner.scope), VERSION)
            self._refer(owner.func)
        elif isinstance(owner, type):
            self._read_class(owner)
        elif isinstance(owner, types.ModuleType):
            self.out += dumps(("module", owner.__name__), VERSION)
        elif isinstance(owner, functools._lru_cache_wrapper):
            self.out += dumps("cached", VERSION)
            self._refer(owner.__wrapped__)
        else:
            self._value(owner, _called(owner))

    def _read_function(self, function: types.FunctionType) -> None:
        entry = _entry_of(function.__code__)
        name = function.__name__
        self.out += dumps(("function", entry.digest), VERSION)
        self._value(function.__defaults__, "a default of", name)
        self._value(function.__kwdefaults__, "a default of", name)
        for free, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:
                self.out += _EMPTY_CELL
            else:
                self._value(content, repr(free), "in the closure of", name)
        if function.__dict__:
            self._value(function.__dict__, "an attribute of", name)
        namespace = function.__globals__
        home = namespace.get("__name__")
        if isinstance(home, str) and is_installed(home):
            # A wrapper made by a library: the library counts by its version, what it wraps by the closure.
            self.out += dumps((home, version_of(home)), VERSION)
            return
        for chain in entry.chains:
            self._read_chain(chain, namespace, name)
        for module, imported in entry.imports:
            self._read_import(module, imported, name)

    def _read_chain(self, chain: tuple[str, ...], namespace: dict[str, Any], function: str) -> None:
        first = chain[0]
        try:
            value = namespace[first]
        except KeyError:
            self.out += _BUILTIN if hasattr(builtins, first) else _UNDEFINED
            return
        taken = 1
        while taken < len(chain) and isinstance(value, types.ModuleType) and not is_installed(value.__name__):
            try:
                value = getattr(value, chain[taken])
            except AttributeError:
                break
            taken += 1
        self._value(value, "global", ".".join(chain[:taken]), "of", function)

    def _read_import(self, module: str, name: str, function: str) -> None:
        """What is imported inside a function: by content if it is the user's and loaded, else by name."""
        found = sys.modules.get(module)
        if found is None or not name or is_installed(module):
            return
        value = getattr(found, name, None)
        if value is not None:
            self._value(value, f"{module}.{name}, imported by", function, ",")

    def _read_class(self, kind: type) -> None:
        self.out += dumps(("class", kind.__name__), VERSION)
        self._value((type(kind), *kind.__bases__), "a base of", kind.__name__)
        for name, value in kind.__dict__.items():
            if name in _IGNORED:
                continue
            self.out += dumps(name, VERSION)
            mark, references, reason = len(self.out), len(self.references), self.reason
            for part in _parts_of_member(value):
                self._value(part, f"{kind.__name__}.{name}")
            if self.reason != reason and name.startswith("__") and name.endswith("__"):
                # What a library hung onto the class was made from what the author wrote, which counts.
                del self.out[mark:], self.references[references:]
                self.reason = reason


def _parts_of_member(value: Any) -> tuple[Any, ...]:
    """The code within what a class body makes of it."""
    if isinstance(value, staticmethod | classmethod):
        return (type(value).__name__, value.__func__)
    if isinstance(value, property):
        return ("property", value.fget, value.fset, value.fdel)
    if isinstance(value, functools.cached_property):
        return ("cached_property", value.func)
    if isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType):
        return ("slot",)
    return (value,)


def _called(owner: Any) -> str:
    name = getattr(owner, "__qualname__", None) or getattr(owner, "name", None)
    return name if isinstance(name, str) else f"a {type(owner).__name__}"
