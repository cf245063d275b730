"""A record is a frozen dataclass, to whoever looks at it. Every rule is shown on both, made from the same lines."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import math
import pickle
import pkgutil
import subprocess
import sys
import typing
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastidm
from fastidm import records
from fastidm.events import Finished, Progress, Result
from fastidm.options import Options

Kind = typing.Literal["plain", "default", "factory", "init", "repr", "compare", "class"]
KINDS: tuple[Kind, ...] = typing.get_args(Kind)
LINES: dict[Kind, str] = {
    "plain": "{name}: int",
    "default": "{name}: int = 7",
    "factory": "{name}: list = field(default_factory=list)",
    "init": "{name}: int = field(default=3, init=False)",
    "repr": "{name}: str = field(default='secret', repr=False)",
    "compare": "{name}: int = field(default=0, compare=False)",
    "class": "{name}: ClassVar[str] = 'class'",
}


def both(*bodies: str, base: str = "") -> tuple[type, type]:
    """The record and the dataclass that these bodies make, each derived from the one before it."""
    made = []
    for record, field in ((records.record, records.field), (dataclasses.dataclass, dataclasses.field)):
        names: dict[str, Any] = {"record": record, "field": field, "ClassVar": ClassVar, "__name__": __name__}
        source, parent = "from __future__ import annotations\n", base
        for number, body in enumerate(bodies):
            lines = "\n    ".join(body.splitlines() or ["pass"])
            source += f"@record(frozen=True)\nclass Value{number}({parent}):\n    'Doc.'\n    {lines}\n"
            parent = f"Value{number}"
        exec(source, names)
        made.append(names[parent])
    return made[0], made[1]


def outcome(call: Any, *arguments: Any, **named: Any) -> tuple[object, ...]:
    """What it returns or raises, in words that are the same for the two of them."""
    try:
        result = call(*arguments, **named)
    except Exception as error:
        return type(error), str(error)
    return "returned", repr(result)


BODIES = st.lists(st.sampled_from(KINDS), max_size=5).map(
    # Those without a default come first, as a dataclass wants it.
    lambda kinds: "\n".join(
        LINES[kind].format(name=f"f{at}")
        for at, kind in enumerate(sorted(kinds, key=lambda kind: kind not in ("plain", "class")))
    )
)
VALUES = st.one_of(st.integers(), st.text(max_size=3), st.none(), st.floats(), st.lists(st.integers(), max_size=2))


@given(BODIES, st.lists(VALUES, max_size=6), st.dictionaries(st.sampled_from([f"f{n}" for n in range(6)]), VALUES, max_size=3))
def test_it_is_made_and_shown_and_compared_like_a_dataclass(body: str, values: list[Any], named: dict[str, Any]) -> None:
    record, twin = both(body)
    assert record.__match_args__ == twin.__match_args__  # type: ignore[attr-defined]
    assert inspect.signature(record).parameters.keys() == inspect.signature(twin).parameters.keys()
    assert outcome(record, *values, **named) == outcome(twin, *values, **named)
    try:
        one, other = record(*values, **named), twin(*values, **named)
    except TypeError:
        return
    assert vars(one) == vars(other) or any(isinstance(value, float) and math.isnan(value) for value in vars(one).values())
    assert outcome(hash, one) == outcome(hash, other)
    assert (one == record(*values, **named)) is (other == twin(*values, **named))
    assert one != other
    for changes in ({}, named, {"f0": 1}, {"nobody": 1}):
        assert outcome(records.replace, one, **changes) == outcome(dataclasses.replace, other, **changes)
        assert outcome(dataclasses.replace, one, **changes) == outcome(dataclasses.replace, other, **changes)
    assert outcome(dataclasses.asdict, one) == outcome(dataclasses.asdict, other)
    assert repr(copy.copy(one)) == repr(copy.deepcopy(one)) == repr(one)
    for name in ("f0", "nobody", "__class__"):
        assert outcome(setattr, one, name, 1) == outcome(setattr, other, name, 1)
        assert outcome(delattr, one, name) == outcome(delattr, other, name)


@given(BODIES)
def test_dataclasses_sees_the_same_fields(body: str) -> None:
    record, twin = both(body)
    assert dataclasses.is_dataclass(record)
    assert record.__dataclass_fields__.keys() == twin.__dataclass_fields__.keys()
    assert [repr(field) for field in dataclasses.fields(record)] == [repr(field) for field in dataclasses.fields(twin)]
    assert repr(record.__dataclass_params__) == repr(twin.__dataclass_params__)  # type: ignore[attr-defined]
    assert records.names(record) == tuple(field.name for field in dataclasses.fields(twin))


def test_fields_of_bases_come_first_and_keep_their_place() -> None:
    record, twin = both("a: int\nb: int = 2\nc: ClassVar[int] = 1", "b: int = 3\nd: int = 4\nc: int = 5")
    assert record.__match_args__ == twin.__match_args__ == ("a", "b", "c", "d")  # type: ignore[attr-defined]
    assert repr(record(1)) == repr(twin(1)) == "Value1(a=1, b=3, c=5, d=4)"
    assert [repr(field) for field in dataclasses.fields(record)] == [repr(field) for field in dataclasses.fields(twin)]
    assert record(1) != record.__base__(1)  # type: ignore[misc]


def test_post_init_is_called_and_may_set_what_is_no_parameter() -> None:
    body = (
        "a: int\nb: list = field(init=False, repr=False, compare=False)\n"
        "def __post_init__(self):\n    object.__setattr__(self, 'b', [self.a])"
    )
    for cls in both(body):
        one = cls(3)
        assert (one.b, repr(one), one == cls(3), hash(one)) == ([3], "Value0(a=3)", True, hash((3,)))
        assert dataclasses.replace(one, a=4).b == records.replace(one, a=4).b == [4]


def test_a_factory_makes_one_for_each() -> None:
    for cls in both("a: list = field(default_factory=list)"):
        assert cls().a is not cls().a
        given = [1]
        assert cls(given).a is given
        assert "a" not in vars(cls)


def test_methods_of_the_class_itself_stay() -> None:
    body = "a: int\ndef __repr__(self): return 'mine'\ndef __eq__(self, other): return True\ndef __hash__(self): return 5"
    for cls in both(body):
        assert (repr(cls(1)), cls(1) == cls(2), hash(cls(1))) == ("mine", True, 5)
    for cls in both("a: int\ndef __eq__(self, other): return True"):
        assert hash(cls(1)) == hash((1,))
    for cls in both("a: int\n__hash__ = None\n__match_args__ = ()"):
        assert cls.__hash__ is None and cls.__match_args__ == ()  # type: ignore[attr-defined]


def test_one_that_holds_itself_can_be_shown() -> None:
    for cls in both("a: list"):
        one = cls([])
        one.a.append(one)
        assert repr(one) == "Value0(a=[...])"


def test_what_is_derived_from_one_is_what_it_would_be() -> None:
    for cls in both("a: int\nb: int = 2"):

        class Plain(cls):  # type: ignore[valid-type, misc]
            def __init__(self, a: int) -> None:
                object.__setattr__(self, "early", 1)
                super().__init__(a, b=3)
                self.own = 1

        one = Plain(1)
        assert (one.a, one.b, one.own, one.early) == (1, 3, 1, 1)
        assert repr(one).endswith(".Plain(a=1, b=3)")
        del one.own
        for name in "ab":
            with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot assign to field '{name}'"):
                setattr(one, name, 2)
            with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot delete field '{name}'"):
                delattr(one, name)

        @dataclasses.dataclass(frozen=True)
        class Derived(cls):  # type: ignore[valid-type, misc]
            c: int = 3

        assert (Derived(1), hash(Derived(1))) == (Derived(1, 2, 3), hash((1, 2, 3)))
        assert records.replace(Derived(1, c=5), a=4) == Derived(4, 2, 5)
        assert [field.name for field in dataclasses.fields(Derived)] == ["a", "b", "c"]
        with pytest.raises(TypeError, match="cannot inherit non-frozen dataclass from a frozen one"):
            dataclasses.dataclass(type("Loose", (cls,), {}))


def test_each_error_names_the_method_and_the_field() -> None:
    record, twin = both("a: int\nb: int = 1")
    for arguments in ((), (1, 2, 3)):
        assert outcome(record, *arguments) == outcome(twin, *arguments)
    assert outcome(record, 1, x=1) == outcome(twin, 1, x=1)
    assert inspect.signature(record) == inspect.signature(twin)
    assert record.__init__.__annotations__ == twin.__init__.__annotations__  # type: ignore[misc]


def test_a_record_that_may_change_is_refused() -> None:
    with pytest.raises(TypeError):
        records.record(frozen=False)


def every_record() -> list[type]:
    """Those of the whole package."""
    for module in pkgutil.walk_packages(fastidm.__path__, "fastidm."):
        if not module.name.startswith("fastidm.integrations.") and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, left = [], [object]
    while left:
        children = type.__subclasses__(left.pop())
        left += children
        found += [cls for cls in children if "__record__" in vars(cls) and cls.__module__.startswith("fastidm.")]
    return sorted(set(found), key=lambda cls: (cls.__module__, cls.__name__))


@pytest.mark.parametrize("cls", every_record(), ids=lambda cls: cls.__name__)
def test_each_record_of_the_package_is_one_that_a_dataclass_could_be(cls: type) -> None:
    namespace = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__", "__record__")}
    plain = {name: value for name, value in namespace.items() if not type(value).__name__.startswith("_")}
    for name in ("__setattr__", "__delattr__", "__replace__", "__init__", "__dataclass_fields__", "__dataclass_params__"):
        plain.pop(name, None)
    for field in dataclasses.fields(cls):
        if not field.init:
            plain[field.name] = dataclasses.field(init=field.init, repr=field.repr, compare=field.compare)
    twin = dataclasses.dataclass(frozen=True)(type(cls.__name__, cls.__bases__, plain))
    assert [repr(field) for field in dataclasses.fields(cls)] == [repr(field) for field in dataclasses.fields(twin)]
    assert inspect.signature(cls) == inspect.signature(twin)
    assert cls.__match_args__ == twin.__match_args__  # type: ignore[attr-defined]


PROGRESS = Progress("u", None, 1, 0, 0.0, None, 1, ())
RESULT = Finished("u", "/d/f", 100, 1.0, 100.0, 100, 0, 1, 0, None, False, "u", None)


@pytest.mark.parametrize("value", [RESULT, Options(connections=3, headers=("A: b",)), PROGRESS])
def test_public_ones_are_pickled_copied_and_taken_apart(value: Any) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(value, protocol)) == value
    assert copy.copy(value) == copy.deepcopy(value) == dataclasses.replace(value) == value
    assert dataclasses.asdict(value) == vars(value)
    assert dataclasses.astuple(value) == tuple(vars(value).values())
    assert typing.get_type_hints(type(value)).keys() >= vars(value).keys()


def test_they_can_be_matched() -> None:
    match RESULT:
        case Result(url, path, size=100):
            assert (url, path) == ("u", "/d/f")
        case _:
            pytest.fail("not matched")


def test_making_one_loads_no_dataclasses() -> None:
    code = (
        "import sys\n"
        "from fastidm.records import record, replace, names\n"
        "@record(frozen=True)\n"
        "class Point:\n"
        "    x: int\n"
        "    y: int = 2\n"
        "point = replace(Point(1), y=3)\n"
        "hash(point), repr(point), point == Point(1), names(Point)\n"
        "print(*sorted({'dataclasses', 'typing', 'inspect'} & set(sys.modules)))\n"
        "try:\n"
        "    point.x = 1\n"
        "except AttributeError as error:\n"
        "    print(type(error).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd="/", env={"PYTHONPATH": str(fastidm.__path__[0]) + "/.."},
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout == "\nFrozenInstanceError\n"
