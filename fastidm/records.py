"""Immutable values: classes as `@dataclass(frozen=True)` makes them, at a hundredth of the price.

Rules of this module:

* A type checker sees the real `dataclass`, `field` and `replace`; whoever uses a record may treat it as a dataclass, with
  `dataclasses.fields`, `replace`, `asdict` and `is_dataclass`, may match, copy and pickle it, and derive a dataclass from it.
* Importing `dataclasses` takes as long as loading libcurl, and it compiles six functions for each class. Here a method is
  compiled when it is first used: most records of a short command are never made.
* `__init__` writes all fields at once, which is faster than `object.__setattr__` for each, as a frozen dataclass has it.
* What no record needs is not there: order, `kw_only`, slots, `InitVar`. A default that is no default for a dataclass, as a
  list, shows when a test asks for the `fields` of every record that there is.
"""

from __future__ import annotations

__all__ = ["field", "names", "record", "replace"]

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import Field
    from typing import Any, TypeVar

    Class = TypeVar("Class", bound=type)

_NOTHING: Any = object()
"""No value was given."""


class _Field:
    """What is known of one field; of those that `field` was not asked for, the defaults."""

    __slots__ = ("compare", "default", "factory", "init", "repr")

    def __init__(self, default: Any, factory: Any, init: bool, repr: bool, compare: bool) -> None:
        self.default = default
        self.factory = factory
        self.init = init
        self.repr = repr
        self.compare = compare

    def real(self) -> Field[Any]:
        """The same for `dataclasses`."""
        import dataclasses

        how: dict[str, Any] = {"init": self.init, "repr": self.repr, "compare": self.compare}
        if self.default is not _NOTHING:
            how["default"] = self.default
        if self.factory is not _NOTHING:
            how["default_factory"] = self.factory
        made: Field[Any] = dataclasses.field(**how)
        return made


class _Recipe:
    """Of what a record is made: `cls`, its fields by name (those of its bases first), and the types of all annotations."""

    __slots__ = ("cls", "fields", "types")

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.fields: dict[str, _Field] = {}
        self.types: dict[str, Any] = {}
        for base in reversed(cls.__mro__[1:]):
            recipe = vars(base).get("__record__")
            if recipe is not None:
                self.fields.update(recipe.fields)
                self.types.update(recipe.types)
        given = vars(cls)
        for name, type in cls.__annotations__.items():
            self.types[name] = type
            if _is_class_variable(type):
                self.fields.pop(name, None)
                continue
            default = given.get(name, _NOTHING)
            if not isinstance(default, _Field):
                default = _Field(default, _NOTHING, True, True, True)
            elif default.default is _NOTHING:
                delattr(cls, name)
            else:
                setattr(cls, name, default.default)
            self.fields[name] = default
        self.fields = {name: self.fields[name] for name in self.types if name in self.fields}

    def wanted(self, what: str) -> list[str]:
        """The names of the fields that have `what` ("init", "repr" or "compare")."""
        return [name for name, known in self.fields.items() if getattr(known, what)]

    def method(self, name: str) -> Callable[..., Any]:
        """`__init__`, `__eq__`, `__hash__` or `__repr__`, compiled."""
        cls, known = self.cls, {"_nothing": _NOTHING}
        compared = "".join(f"self.{field}, " for field in self.wanted("compare"))
        if name == "__init__":
            source = self._init(known)
        elif name == "__eq__":
            others = compared.replace("self.", "other.")
            source = (
                "def __eq__(self, other):\n"
                f" if other.__class__ is self.__class__: return ({compared}) == ({others})\n"
                " return NotImplemented"
            )
        elif name == "__hash__":
            source = f"def __hash__(self): return hash(({compared}))"
        else:
            from reprlib import recursive_repr

            known["recursive_repr"] = recursive_repr
            shown = ", ".join(f"{field}={{self.{field}!r}}" for field in self.wanted("repr"))
            source = f"@recursive_repr()\ndef __repr__(self): return self.__class__.__qualname__ + f'({shown})'"
        made: dict[str, Any] = {}
        exec(source, {"__name__": cls.__module__, **known}, made)
        method: Callable[..., Any] = made[name]
        method.__qualname__ = f"{cls.__qualname__}.{name}"
        if name == "__init__":
            method.__annotations__ = {field: self.types[field] for field in self.wanted("init")} | {"return": None}
        return method

    def _init(self, known: dict[str, Any]) -> str:
        """The source of `__init__`; `known`: what its globals are to be."""
        cls, parameters, stored = self.cls, ["self"], []
        for field, how in self.fields.items():
            value = field
            if how.factory is not _NOTHING:
                known[f"_factory_{field}"] = how.factory
                value = f"_factory_{field}()"
                if how.init:
                    parameters.append(f"{field}=_nothing")
                    value = f"{value} if {field} is _nothing else {field}"
            elif how.init and how.default is not _NOTHING:
                known[f"_default_{field}"] = how.default
                parameters.append(f"{field}=_default_{field}")
            elif how.init:
                parameters.append(field)
            else:
                continue  # the class has its default, or __post_init__ sets it
            stored.append(f"{field!r}: {value}")
        known["_cls"] = cls
        known["_fill"] = next(vars(base)["__dict__"] for base in cls.__mro__ if "__dict__" in vars(base)).__set__
        known["_add"] = lambda self, values: self.__dict__.update(values)
        after = "\n self.__post_init__()" if hasattr(cls, "__post_init__") else ""
        # A derived class may have set something of its own already.
        store = f"(_fill if self.__class__ is _cls else _add)(self, {{{', '.join(stored)}}})"
        return f"def __init__({', '.join(parameters)}):\n {store}{after}"

    def real(self) -> dict[str, Any]:
        """What `dataclasses` looks for in a class that it made."""
        from dataclasses import make_dataclass
        from typing import Any, ClassVar

        fields: list[Any] = []
        for name, type in self.types.items():
            if name in self.fields:
                fields.append((name, type, self.fields[name].real()))
            else:  # as text it would not be known for what it is, where ClassVar is imported for type checkers alone
                fields.append((name, ClassVar[Any], *(vars(self.cls)[name] for _ in "1" if name in vars(self.cls))))
        twin = make_dataclass(self.cls.__name__, fields, frozen=True)
        for name, known in twin.__dataclass_fields__.items():  # type: ignore[attr-defined]
            known.type = self.types[name]
        return vars(twin)  # type: ignore[return-value]


class _Method:
    """A method of a record: it is compiled when somebody asks for it, and then takes this one's place."""

    __slots__ = ("name", "recipe")

    def __init__(self, recipe: _Recipe, name: str) -> None:
        self.recipe = recipe
        self.name = name

    def __get__(self, instance: object, owner: type) -> Any:
        method = self.recipe.method(self.name)
        setattr(self.recipe.cls, self.name, method)
        return method.__get__(instance, owner)  # of this very class: a derived one may have another, and want this


class _Attribute(_Method):
    """An attribute that `dataclasses` looks for: from then on it is there."""

    __slots__ = ()

    def __get__(self, instance: object, owner: type) -> Any:
        value = self.recipe.real()[self.name]
        setattr(self.recipe.cls, self.name, value)
        return value


def _is_class_variable(type: Any) -> bool:
    name = type if isinstance(type, str) else repr(type)
    return name.partition("[")[0].rpartition(".")[2] == "ClassVar"


def _set(self: Any, name: str, value: object) -> None:
    _check(self, name, "assign to")
    object.__setattr__(self, name, value)


def _delete(self: Any, name: str) -> None:
    _check(self, name, "delete")
    object.__delattr__(self, name)


def _check(self: Any, name: str, what: str) -> None:
    """A record never changes; only what is derived from it may have attributes of its own that do."""
    if "__record__" in vars(type(self)) or name in self.__record__.fields:
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot {what} field {name!r}")


def _record(*, frozen: bool) -> Callable[[Class], Class]:
    """Make a class a record. Parameter: `frozen`, as `dataclass` has it; there are no others."""
    if not frozen:
        raise TypeError("a record is immutable")
    return _make


def _make(cls: Class) -> Class:
    recipe = cls.__record__ = _Recipe(cls)  # type: ignore[attr-defined]
    own = vars(cls)
    cls.__init__ = _Method(recipe, "__init__")  # type: ignore[misc]
    if "__hash__" not in own or (own["__hash__"] is None and "__eq__" in own):  # the None that Python gives with an __eq__
        cls.__hash__ = _Method(recipe, "__hash__")  # type: ignore[assignment]
    for name in ("__eq__", "__repr__"):
        if name not in own:
            setattr(cls, name, _Method(recipe, name))
    cls.__setattr__ = _set  # type: ignore[assignment, method-assign]
    cls.__delattr__ = _delete  # type: ignore[assignment, method-assign]
    cls.__replace__ = _replace  # type: ignore[attr-defined]
    if "__match_args__" not in own:
        cls.__match_args__ = tuple(recipe.wanted("init"))  # type: ignore[attr-defined, misc]
    cls.__dataclass_fields__ = _Attribute(recipe, "__dataclass_fields__")  # type: ignore[attr-defined]
    cls.__dataclass_params__ = _Attribute(recipe, "__dataclass_params__")  # type: ignore[attr-defined]
    return cls


def _replace(self: Any, /, **changes: Any) -> Any:
    """A record with other values in some of its fields."""
    if "__record__" not in vars(type(self)):
        from dataclasses import replace

        return replace(self, **changes)  # one that somebody derived from a record
    for name, known in self.__record__.fields.items():
        if known.init:
            if name not in changes:
                changes[name] = getattr(self, name)
        elif name in changes:
            raise ValueError(f"field {name} is declared with init=False, it cannot be specified with replace()")
    return self.__class__(**changes)


def _field(
    *, default: Any = _NOTHING, default_factory: Any = _NOTHING, init: bool = True, repr: bool = True, compare: bool = True
) -> Any:
    """As `dataclasses.field`."""
    return _Field(default, default_factory, init, repr, compare)


def names(cls: type) -> tuple[str, ...]:
    """The names of the fields of a record."""
    return tuple(cls.__record__.fields)  # type: ignore[attr-defined]


if TYPE_CHECKING:
    from dataclasses import dataclass as record
    from dataclasses import field as field
    from dataclasses import replace as replace
else:
    record, field, replace = _record, _field, _replace
