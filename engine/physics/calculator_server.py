"""Makes an ASE calculator from a recipe and answers for it; also a program for the Python of another environment.

As a program (``PYTHON -E -u calculator_server.py PARENT``) it needs ASE, numpy and the potential, and no other file of
this package; Python 3.8 is new enough. Messages go over standard input and output: ``ksp1``, the lengths of a JSON
header and of the bytes behind it (unsigned 32-bit numbers, big-endian), the header, the bytes. ``arrays`` in the header
lists name and shape of the arrays in the bytes, float64, little-endian. The order of messages:

- hello: protocol, versions of Python, ASE and numpy; or the error that there is no ASE
- make (ours): a recipe, as of :func:`make_calculator`; answered by made, with package, version and SHA-256 of weights
- evaluate (ours): what is wanted, positions, and what has changed of atomic numbers, periodicity and cell; answered by
  results: all of energy (eV), forces (eV/Angstrom, n x 3) and stress (eV/Angstrom^3, Voigt) that were calculated, and
  the processor time of this process so far in seconds
- describe (ours): a crystal as for evaluate; answered by descriptors of its atoms (n x d), the atomic numbers that the
  potential knows (an empty list if it does not tell), and the processor time
- error, in place of any answer: type and message of the exception

Whatever the potential prints goes to standard error. The program ends with its parent, or when its input ends.
"""

from __future__ import annotations

import difflib
import glob
import hashlib
import importlib
import json
import operator
import os
import pkgutil
import signal
import struct
import sys
import threading
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from numpy.typing import ArrayLike, NDArray

    Recipe = Mapping[str, Any]
    """How a calculator is made, JSON-ready: see :func:`make_calculator`, and :meth:`Evaluator.describe`."""
    Arguments = tuple[tuple[object, ...], Mapping[str, object]]
    Arrays = Mapping[str, ArrayLike]

PROTOCOL = 2
MAGIC = b"ksp1"
_LENGTHS = struct.Struct(">4sII")
_BLOCK = 1 << 20
_PROPERTIES = ("energy", "forces", "stress")
_LIBRARIES = ("torch", "jax", "tensorflow")
"""Libraries beneath potentials; their versions are part of the record where they were imported."""


class RecipeError(Exception):
    """A calculator that cannot be made; ``kind`` is missing, no_callable, raised or no_calculator."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def make_calculator(recipe: Recipe) -> Calculator:
    """Make an ASE calculator.

    ``recipe`` holds ``calculator``, names of the callable as ``module:name``, of which the first that can be imported
    counts, and its keyword arguments ``options``; perhaps a ``model``, the value of the argument ``model_option`` or of
    the first one; and perhaps a ``loader`` (a callable, or a mapping of callables by model) with ``loader_options``,
    whose result takes the place of the model.

    Raises
    ------
    RecipeError
        If the callable cannot be imported, raises, or makes no ASE calculator.
    """
    from ase.calculators import calculator as ase

    make, arguments = _imported(recipe["calculator"]), _model(recipe)
    if recipe.get("loader"):
        load = _imported(recipe["loader"])
        if isinstance(load, Mapping):
            if recipe["model"] not in load:
                raise RecipeError("raised", f"there is no model {recipe['model']}; there are {', '.join(load)}")
            load, arguments = load[recipe["model"]], ((), {})
        loaded = _called(load, arguments, recipe.get("loader_options", {}))
        arguments = (loaded if isinstance(loaded, tuple) else (loaded,)), {}
    made = _called(make, arguments, recipe.get("options", {}))
    if not isinstance(made, tuple(vars(ase)[name] for name in ("BaseCalculator", "Calculator") if name in vars(ase))):
        raise RecipeError("no_calculator", f"makes a {type(made).__name__}, not an ASE calculator")
    return made


def facts_of(recipe: Recipe) -> dict[str, str]:
    """Package, its version, and SHA-256 of the weights ("" if the library does not tell the file) of a calculator."""
    top = _package_of(recipe)
    package = recipe.get("package") or next(iter(_distributions().get(top, [])), "")
    try:
        version = metadata.version(package) if package else "unknown"
    except metadata.PackageNotFoundError:
        version = "unknown"
    return {"package": package or top, "version": version, "weights_sha256": _weights(recipe)}


class Evaluator:
    """Energies, forces and stresses by one calculator, which is kept from crystal to crystal."""

    def __init__(self, calculator: Calculator):
        self._calculator = calculator
        self._atoms: Any = None

    def evaluate(
        self, wanted: str, numbers: Sequence[int], pbc: Sequence[bool], cell: ArrayLike, positions: ArrayLike
    ) -> dict[str, Any]:
        """``wanted`` (energy in eV, forces n x 3 or stress, 6 numbers), and what else was calculated with it.

        Raises
        ------
        Exception
            Whatever the calculator raises; ValueError for a result of another shape.
        """
        import numpy as np

        try:
            atoms = self._placed(numbers, pbc, cell, positions)
            found = {wanted: _ask(atoms, wanted)}
            at_hand = vars(self._calculator).get("results", {})
            others = [name for name in _PROPERTIES if name not in found and at_hand.get(name) is not None]
            found.update({name: _ask(atoms, name) for name in others})
        except BaseException:
            self._atoms = None  # a calculator that failed on a crystal starts afresh on the next
            raise
        for name, shape in zip(_PROPERTIES, ((), (len(atoms), 3), (6,))):  # noqa: B905 - strict= is of Python 3.10
            if name in found and np.shape(found[name]) != shape:
                raise ValueError(f"the calculator gives {name} of shape {np.shape(found[name])}, not {shape}")
        return found

    def describe(
        self,
        descriptors: Mapping[str, Any],
        numbers: Sequence[int],
        pbc: Sequence[bool],
        cell: ArrayLike,
        positions: ArrayLike,
    ) -> NDArray[Any]:
        """Descriptors of the atoms (n x d); ``descriptors`` says where the calculator has them.

        It holds either ``method``, the name of a method of the calculator that returns them for an ASE Atoms object,
        with its keyword arguments ``options``; or ``module``, names of torch modules of the calculator, of which the
        first that exists counts: they are its first argument or, with ``side`` output, what it returns, under ``key``
        where that is a mapping. What the calculator would do after that is left out.

        Raises
        ------
        Exception
            Whatever the calculator raises; ValueError if there is no such method or module, or another shape.
        """
        import numpy as np

        try:
            atoms = self._placed(numbers, pbc, cell, positions)
            if "method" in descriptors:
                method = _part(self._calculator, [descriptors["method"]])
                given = method(atoms, **descriptors.get("options", {}))
            else:
                given = _passing(self._calculator, atoms, descriptors)
        finally:
            self._atoms = None
        found = np.array(given, dtype=float)
        if found.ndim != 2 or len(found) != len(atoms):
            raise ValueError(f"the calculator gives descriptors of shape {found.shape} for {len(atoms)} atoms")
        return found

    def elements(self, known: Any) -> list[int]:
        """Atomic numbers of the elements it knows; none if it does not tell.

        ``known`` is the attribute of the calculator that lists them, as numbers or symbols, or the highest number.
        """
        from ase.data import atomic_numbers

        if not isinstance(known, str):
            return list(range(1, int(known or 0) + 1))
        listed = _part(self._calculator, [known])
        return sorted({atomic_numbers[one] if isinstance(one, str) else int(one) for one in listed})

    def _placed(self, numbers: Sequence[int], pbc: Sequence[bool], cell: ArrayLike, positions: ArrayLike) -> Atoms:
        from ase import Atoms

        if self._atoms is None or list(self._atoms.numbers) != list(numbers):
            self._atoms = Atoms(numbers=numbers, positions=positions, cell=cell, pbc=pbc)
            self._atoms.calc = self._calculator
        self._atoms.set_cell(cell)
        self._atoms.set_pbc(pbc)
        self._atoms.set_positions(positions)
        return self._atoms


def pack(header: Mapping[str, object], arrays: Arrays) -> bytes:
    """One message."""
    if arrays:
        import numpy as np

        parts = {name: np.ascontiguousarray(array, dtype="<f8") for name, array in arrays.items()}
    else:
        parts = {}
    content = b"".join(part.tobytes() for part in parts.values())
    text = json.dumps(dict(header, arrays=[[name, list(part.shape)] for name, part in parts.items()])).encode()
    return _LENGTHS.pack(MAGIC, len(text), len(content)) + text + content


def unpack(read: Callable[[int], bytes]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Header and arrays of the next message; ``read`` returns exactly as many bytes as it is asked for.

    Raises
    ------
    ValueError
        If what is read is no message.
    """
    magic, n_header, n_content = _LENGTHS.unpack(read(_LENGTHS.size))
    if magic != MAGIC:
        raise ValueError(f"{magic!r} is not how a message begins")
    header, content = json.loads(read(n_header)), read(n_content)
    arrays: dict[str, NDArray[Any]] = {}
    place = 0
    for name, shape in header["arrays"]:
        import numpy as np

        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(content, "<f8", count, place).reshape(shape)
        place += 8 * count
    return header, arrays


def _ask(atoms: Atoms, name: str) -> Any:
    import numpy as np

    if name == "energy":
        return float(np.asarray(atoms.get_potential_energy()).item())
    return np.array(atoms.get_forces() if name == "forces" else atoms.get_stress(), dtype=float)


class _ReachedError(Exception):
    """The descriptors are known; what the calculator would still do is left out."""


def _passing(calculator: Any, atoms: Atoms, place: Mapping[str, Any]) -> Any:
    """What goes into a torch module, or comes out of it, while the energy is calculated."""
    module = _part(calculator, place["module"])
    kept: list[Any] = []

    def keep(_: object, *passed: Any) -> None:  # the arguments, and for what comes out the result too
        value = passed[-1] if place.get("side") == "output" else passed[0][0]
        if "key" in place:
            value = value[place["key"]]
        kept.append(value.detach().cpu().numpy().copy())
        raise _ReachedError

    hook = module.register_forward_hook if place.get("side") == "output" else module.register_forward_pre_hook
    handle = hook(keep)
    calculator.reset()  # a calculator that knows the energy already would not ask its network
    try:
        atoms.get_potential_energy()
    except _ReachedError:
        return kept[0]
    finally:
        handle.remove()
        calculator.reset()  # it holds the crystal by now, and results of another
    raise ValueError(f"the calculator does not use its {' or '.join(place['module'])}")


def _part(calculator: Any, names: Sequence[str]) -> Any:
    """The first of the calculator's attributes, of ``model.mlp`` as of nested ones, that exists."""
    for name in names:
        try:
            return operator.attrgetter(name)(calculator)
        except AttributeError:
            continue
    raise ValueError(f"{type(calculator).__name__} has no {' or '.join(names)}; its version may be too old or too new")


def _model(recipe: Recipe) -> Arguments:
    """Positional and keyword arguments that pass on the name of the model."""
    model, option = recipe.get("model"), recipe.get("model_option")
    if not model:
        return (), {}
    return ((), {option: model}) if option else ((model,), {})


def _called(make: Callable[..., object], arguments: Arguments, options: Mapping[str, object]) -> Any:
    try:
        return make(*arguments[0], **dict(options, **arguments[1]))
    except Exception as error:  # a foreign callable may raise anything
        raise RecipeError("raised", f"raised {type(error).__name__}: {error}") from error


def _imported(names: Sequence[str]) -> Any:
    """What the first name that can be imported stands for: ``module:name`` or ``module:Class.method``."""
    missing: list[RecipeError] = []
    for text in names:
        module, _, name = text.partition(":")
        try:
            home = importlib.import_module(module)
        except ImportError as error:
            missing.append(_not_imported(module, error))
            continue
        try:
            found = operator.attrgetter(name)(home)
        except AttributeError:
            found = None
        if callable(found) or isinstance(found, Mapping):
            return found
        raise RecipeError("no_callable", f"module {module} has no callable {name}")
    raise missing[0]


def _not_imported(module: str, error: ImportError) -> RecipeError:
    """A package that is missing, or a mistyped module of one that is there."""
    home, _, last = (error.name or "").rpartition(".")
    if not isinstance(error, ModuleNotFoundError) or not home or not module.startswith(f"{home}.{last}"):
        return RecipeError("missing", f"module {module} cannot be imported ({error})")
    there = [found.name for found in pkgutil.iter_modules(importlib.import_module(home).__path__)]
    near = difflib.get_close_matches(last, there, n=1)
    meant = f"; did you mean {home}.{near[0]}?" if near else ""
    return RecipeError("no_callable", f"there is no module {home}.{last}{meant}")


def _package_of(recipe: Recipe) -> str:
    """Topmost package of the calculator's module."""
    return str(recipe["calculator"][0].partition(":")[0].partition(".")[0])


def _distributions() -> Mapping[str, Sequence[str]]:
    """Packages that provide each topmost module."""
    if sys.version_info >= (3, 10):  # noqa: UP036 - other environments may have an older Python
        return metadata.packages_distributions()
    found: dict[str, list[str]] = {}
    for package in metadata.distributions():
        for top in (package.read_text("top_level.txt") or "").split():
            found.setdefault(top, []).append(package.metadata["Name"])
    return found


def _weights(recipe: Recipe) -> str:
    """SHA-256 of the files of weights, empty where the library does not tell them.

    A model that is a file or a path of a folder is one, and an option that is a file; otherwise the library's function,
    or pattern of names, is asked.
    """
    model = str(recipe.get("model", ""))
    values = (model, *recipe.get("options", {}).values(), *recipe.get("loader_options", {}).values())
    paths = [Path(value) for value in values if isinstance(value, str) and _is_file(value)]
    if model and os.sep in model and Path(model).is_dir():
        paths.append(Path(model))
    for place in recipe.get("weights", ()) if model and not paths else ():
        if ":" in place:
            paths.append(Path(str(_imported([place])(model))))
        else:
            home = Path(str(importlib.import_module(_package_of(recipe)).__file__)).parent
            pattern = home / Path(place.replace("{model}", glob.escape(model))).expanduser()
            paths += map(Path, glob.glob(str(pattern)))  # noqa: PTH207 - the pattern is absolute
    files = sorted({file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])})
    hashes = [_sha256(file) for file in files if file.is_file()]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest() if hashes else ""


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a text that is no path
        return False


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        for block in iter(lambda: handle.read(_BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


class _Channel:
    """Standard input and output, taken from whatever else in this process would read or print."""

    def __init__(self) -> None:
        self._source, self._target = os.dup(0), os.dup(1)
        self._arrived = b""
        os.dup2(2, 1)  # what is printed, in Python or in C
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def receive(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        return unpack(self._read)

    def send(self, header: Mapping[str, object], arrays: Arrays | None = None) -> None:
        left = memoryview(pack(header, arrays or {}))
        while left:
            left = left[os.write(self._target, left) :]

    def send_error(self, error: Exception) -> None:
        kind = error.kind if isinstance(error, RecipeError) else ""
        self.send({"kind": "error", "recipe": kind, "type": type(error).__name__, "message": str(error)})

    def _read(self, count: int) -> bytes:
        while len(self._arrived) < count:
            part = os.read(self._source, _BLOCK)
            if not part:
                os._exit(0)
            self._arrived += part
        wanted, self._arrived = self._arrived[:count], self._arrived[count:]
        return wanted


def _serve(channel: _Channel) -> None:
    """Answer until the input ends."""
    try:
        import ase
        import numpy as np
    except ImportError as error:
        channel.send_error(error)
        return
    versions = {"python": sys.version.split()[0], "ase": ase.__version__, "numpy": np.__version__}
    channel.send({"kind": "hello", "protocol": PROTOCOL, "versions": versions})
    recipe = channel.receive()[0]["recipe"]
    try:
        evaluator = Evaluator(make_calculator(recipe))
        facts = facts_of(recipe)
    except Exception as error:  # a foreign callable may raise anything
        channel.send_error(error)
        return
    versions.update({name: str(sys.modules[name].__version__) for name in _LIBRARIES if name in sys.modules})
    channel.send(dict(facts, kind="made", versions=versions))
    crystal: dict[str, Any] = {}
    while True:
        header, arrays = channel.receive()
        crystal.update(arrays)
        crystal.update({name: header[name] for name in ("numbers", "pbc") if name in header})
        try:
            answer, found = _answer(evaluator, recipe, header, crystal)
        except Exception as error:  # a foreign calculator may raise anything; the next crystal may succeed
            channel.send_error(error)
            continue
        channel.send(dict(answer, core_seconds=time.process_time()), found)


def _answer(
    evaluator: Evaluator, recipe: Recipe, header: Mapping[str, Any], crystal: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and arrays of the answer to evaluate or describe."""
    if header["kind"] == "describe":
        place = recipe["descriptors"]
        found = {"descriptors": evaluator.describe(place, **crystal)}
        return {"kind": "descriptors", "elements": evaluator.elements(place.get("elements"))}, found
    found = evaluator.evaluate(header["wanted"], **crystal)
    energy = {"energy": found.pop("energy")} if "energy" in found else {}
    return dict(energy, kind="results"), found


def _end_with(parent: int) -> None:
    """End this process with its parent, also in the middle of a calculation that never ends."""
    if sys.platform == "linux":  # a thread cannot end a process whose code in C never returns
        import ctypes

        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent
    sys.path.pop(0)  # this file's folder, whose names are not those of installed packages
    _end_with(int(sys.argv[1]))
    _serve(_Channel())
