"""Names of ASE calculators: ``package.module:Callable`` and ``family:model``, with elements, options and a Python.

``sevennet:7net-0``, ``mace:medium-mpa-0?{"device": "cuda"}``, ``ase.calculators.lj:LennardJones[Ar]?{"sigma": 3.4}``.
Behind the question mark are keyword arguments as JSON; ``potential_python`` among them is the Python of another
environment, in which the calculator runs. The families are those of ``families.toml``. matcalc's loader
(``PESCalculator.load_universal``) makes most of the same calculators, under names of its own; it is not used, because
it would have to be installed beside every potential, and tells neither weights nor precision.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from engine.exceptions import PotentialError
from engine.materials.elements import ATOMIC_NUMBERS

PYTHON = "potential_python"
"""Option that names the Python of another environment."""
METHOD = "get_descriptors"
"""Method by which any calculator may give descriptors of atoms (n x d) for an ASE Atoms object, as MACE's does."""
_TAIL = r"(?:\[(?P<elements>[A-Za-z, ]+)\])?(?:\?(?P<options>\{.*\}))?$"
_CALLABLE = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+):(?P<name>[A-Za-z_]\w*)" + _TAIL, re.DOTALL)
_MODEL = re.compile(r"(?!tersoff:)(?P<family>[A-Za-z_]\w*):(?P<model>[^\[\]?]+)" + _TAIL, re.DOTALL)
"""``tersoff:Si`` is a classical potential of ours."""


@dataclass(frozen=True)
class Family:
    """How the calculators of one library are made; see the head of ``families.toml``."""

    package: str
    calculator: Sequence[str]
    source: str
    model_option: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    loader: Sequence[str] = ()
    loader_options: Mapping[str, object] = field(default_factory=dict)
    device: str = ""
    precision: str = ""
    weights: Sequence[str] = ()
    descriptors: Mapping[str, Any] = field(default_factory=dict)

    def recipe(self, model: str, options: Mapping[str, object]) -> dict[str, Any]:
        """Recipe of one model; an option goes to the loader if it is one of the loader's."""
        own = {
            name: value for name, value in options.items() if name in self.options or name not in self.loader_options
        }
        for_loader = {name: value for name, value in options.items() if name in self.loader_options}
        return {
            "calculator": list(self.calculator),
            "options": {**self.options, **own},
            "model": model,
            "model_option": self.model_option,
            "loader": list(self.loader),
            "loader_options": {**self.loader_options, **for_loader},
            "weights": list(self.weights),
            "package": self.package,
            "descriptors": dict(self.descriptors),
        }


@dataclass(frozen=True)
class CalculatorSpec:
    """What a name of a calculator says."""

    name: str
    """The name without the Python."""
    recipe: Mapping[str, Any]
    """As of :func:`engine.physics.calculator_server.make_calculator`."""
    elements: str | None
    """Text in brackets, None without."""
    python: str = ""
    """Python of another environment; empty for this one."""
    family: Family | None = None

    def covered(self) -> frozenset[str]:
        """Symbols of the elements that are named, or of all.

        Raises
        ------
        PotentialError
            If one is no element.
        """
        if self.elements is None:
            return frozenset(ATOMIC_NUMBERS)
        named = {symbol.strip() for symbol in self.elements.split(",")}
        if unknown := sorted(named - set(ATOMIC_NUMBERS)):
            raise PotentialError(f"{', '.join(unknown)} in {self.name} is no element; name elements, as in [Cu,Au]")
        return frozenset(named)


def is_callable_spec(spec: str) -> bool:
    """Whether a potential's name is that of a Python callable, ``package.module:Callable`` with options or without."""
    return _CALLABLE.match(spec) is not None


def is_calculator_spec(spec: str) -> bool:
    """Whether a potential's name is that of a callable, or reads like ``family:model`` and is no file."""
    return is_callable_spec(spec) or (_MODEL.match(spec) is not None and not Path(spec).exists())


def with_options(spec: str, options: Mapping[str, object]) -> str:
    """A potential's name with keyword arguments of its callable, as JSON behind a question mark.

    Raises
    ------
    PotentialError
        If the name is not that of a calculator, or has options already.
    """
    if not options:
        return spec
    if not is_calculator_spec(spec) or "?" in spec:
        raise PotentialError(
            f"options {', '.join(options)} are for a potential named package.module:Callable or family:model, not for "
            f"{spec}; leave them out"
        )
    return f"{spec}?{json.dumps(options, sort_keys=True)}"


def with_device(spec: str, device: str) -> str:
    """A calculator's name with the device as the option that its family calls so, ``device`` for a callable.

    Raises
    ------
    PotentialError
        If the family has no such option, or the name says another device.
    """
    if not device:
        return spec
    parsed = read_spec(spec)
    option = "device" if parsed.family is None else parsed.family.device
    if not option:
        raise PotentialError(f"{spec}: a calculator of this family has no option for a device; leave out the devices")
    head, mark, options = spec.partition("?")
    given = json.loads(options) if mark else {}
    if given.get(option, device) != device:
        raise PotentialError(
            f"{spec} is to run on {given[option]!r} by its option {option}, and on {device!r} by the devices; leave "
            "out the option"
        )
    return f"{head}?{json.dumps({**given, option: device}, sort_keys=True)}"


def with_python(spec: str, python: str | Path) -> str:
    """A potential's name, to be calculated by the Python of another environment; unchanged for an empty one.

    Raises
    ------
    PotentialError
        If the name is not that of a calculator, or says another Python already.
    """
    if not str(python):
        return spec
    match = _CALLABLE.match(spec) or (_MODEL.match(spec) if is_calculator_spec(spec) else None)
    if match is None:
        raise PotentialError(
            f"{PYTHON} = {str(python)!r} is for a potential named package.module:Callable or family:model "
            f"({', '.join(families())}), not for {spec}; leave it out"
        )
    options = _options(spec, match["options"])
    if options.get(PYTHON, str(python)) != str(python):
        raise PotentialError(f"{spec} names another Python than {PYTHON} = {str(python)!r}; keep one of them")
    return f"{spec.partition('?')[0]}?{json.dumps({**options, PYTHON: str(python)}, sort_keys=True)}"


def with_python_each(names: Sequence[str], python: str | Path) -> tuple[str, ...]:
    """Names of backbones, of which those that are potentials run by the Python of another environment.

    Raises
    ------
    PotentialError
        If a Python is given, and no name is that of a potential for it.
    """
    if str(python) and not any(is_calculator_spec(name) for name in names):
        raise PotentialError(
            f"{PYTHON} = {str(python)!r} is for a potential, family:model or package.module:Callable, among "
            f"{', '.join(names) or 'the backbones'}, and none of them is one; leave it out"
        )
    return tuple(with_python(name, python) if is_calculator_spec(name) else name for name in names)


def read_spec(spec: str) -> CalculatorSpec:
    """Read a name of a calculator.

    Raises
    ------
    PotentialError
        If it is none, its family is not known, or its options are not JSON.
    """
    match = _CALLABLE.match(spec)
    model = None if match else _MODEL.match(spec)
    if match is None and model is None:
        raise PotentialError(f"{spec!r} is not package.module:Callable; give the callable that makes a calculator")
    found: re.Match[str] = match or model  # type: ignore[assignment]
    options = _options(spec, found["options"])
    python = str(options.pop(PYTHON, ""))
    name = with_options(spec.partition("?")[0], options) if python else spec
    if match:
        recipe = {
            "calculator": [f"{match['module']}:{match['name']}"],
            "options": options,
            "descriptors": {"method": METHOD},
        }
        return CalculatorSpec(name, recipe, match["elements"], python)
    if found["family"] not in families():
        raise PotentialError(
            f"there is no family of potentials {found['family']!r} ({spec}); there are {', '.join(families())}, any "
            "ASE calculator as package.module:Callable, and classical ones such as rigid-ion:NaCl"
        )
    family = families()[found["family"]]
    return CalculatorSpec(name, family.recipe(found["model"], options), found["elements"], python, family)


def short_name(spec: str) -> str:
    """A potential's name for people: without the Python of another environment; of a folder, its last part."""
    return read_spec(spec).name if is_calculator_spec(spec) else Path(spec).name


@cache
def families() -> Mapping[str, Family]:
    """The families of ``families.toml`` by name."""
    table: dict[str, dict[str, Any]] = tomllib.loads(
        files("engine.physics").joinpath("families.toml").read_text(encoding="utf-8")
    )
    return {name: Family(**row) for name, row in table.items()}


def _options(spec: str, text: str | None) -> dict[str, object]:
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise PotentialError(
            f"the options of {spec} are not JSON ({error}); give an object of keyword arguments"
        ) from error
    return dict(found)
