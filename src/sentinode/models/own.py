"""Networks of a user's own: made by a callable that a call is given, known by a name and by the digest of its source.

A run's folder holds the weights, never code. So whoever opens such a run gives the callable again.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sentinode.config.run import OwnModel
from sentinode.errors import ConfigError, RunError
from sentinode.models.summary import InitialWeights
from sentinode.settings import is_folder_name

Factory = Callable[[], nn.Module]
"""Called without arguments, gives a new network from (N, 3, s, s) in [0, 1] to (N, 1) logits, on the CPU.

It is called more than once, each time under PyTorch's, NumPy's and Python's global random state as the run's seed has
it; that state is put back afterwards. So weights that are drawn as PyTorch's layers draw them are decided by the seed.
"""
Given = Factory | Sequence[Factory] | Mapping[str, Factory]
"""One callable, several, or several by name; without a name one is called as the function or class is."""

_LARGEST_SEED: Final = 2**32
_ALIKE: Final = 1e-4  # of logits of one patch, alone and beside another: convolutions sum in another order


class OwnNetwork(nn.Module):
    """A user's network as the rest of the package takes it: its input is contiguous, as `Tensor.view` needs it."""

    def __init__(self, network: nn.Module, initial: InitialWeights) -> None:
        super().__init__()
        self.network, self.initial = network, initial

    def forward(self, images: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n 1"]:
        logits: Tensor = self.network(images.contiguous())
        return logits


@dataclass(frozen=True)
class Recipe:
    """What makes a network of a user's own."""

    name: str
    factory: Factory
    source_sha256: str

    @classmethod
    def of(cls, factory: Factory, name: str | None = None) -> Recipe:
        """Raises ConfigError where it is nothing whose source says what it makes, or has no name of its own."""
        called = str(name or getattr(factory, "__name__", type(factory).__name__))
        if not is_folder_name(called):
            raise ConfigError(
                f"{called!r} is not a name for a network",
                where="network",
                remedy="Give a function that has a name, or a mapping of names to callables; a name may hold letters, "
                "digits, '.', '_' and '-'.",
            )
        source = source_digest(factory, called, "network")
        try:
            inspect.signature(factory).bind()
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{called!r} cannot be called without arguments ({error})", where="network", remedy=_REMEDIES["network"]
            ) from error
        return cls(called, factory, source)

    @property
    def settings(self) -> dict[str, str]:
        """The settings, by their full names, of a run of this network."""
        return {
            "model.architecture": "own",
            "model.name": self.name,
            "model.source_sha256": self.source_sha256,
        }

    def build(self, *, seed: int, input_size_px: int, initialised: bool = True) -> OwnNetwork:
        """A new network, its weights as the seed decides; sizes that wait for an input are settled by one.

        initialised: whether it is to say where its weights are from; not where a run's own are read afterwards.
        """
        network = self._made(seed, input_size_px)
        fixed = initialised and _same_weights(network, self._made(seed + 1, input_size_px))
        return OwnNetwork(network, InitialWeights("own", self.name, fixed=fixed))

    def _made(self, seed: int, input_size_px: int) -> nn.Module:
        with _random_state(seed):
            try:
                network = self.factory()
                if isinstance(network, nn.Module) and any(map(_is_lazy, network.parameters())):
                    with torch.no_grad():
                        network.eval()(torch.zeros(2, 3, input_size_px, input_size_px))
                    network.train()
            except Exception as error:
                raise self._wrong(f"cannot be made: {_told(error)}", "Correct it.") from error
        if not isinstance(network, nn.Module):
            raise self._wrong(f"made {type(network).__name__}, not a torch.nn.Module", "Let it return the network.")
        return network

    def require_sound(self, input_size_px: int) -> None:
        """Try the network on two patches; raises ConfigError where it could not be trained or not be opened again."""
        network, again = (self._made(0, input_size_px) for _ in range(2))
        parameters = list(network.parameters())
        if not any(p.requires_grad for p in parameters):
            raise self._wrong("has no parameters that could learn", "Give it layers with weights.")
        if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in parameters):
            raise self._wrong(
                "has parameters that are not float32 on the CPU", "Leave type and device to the settings."
            )
        if not all(torch.isfinite(p).all() for p in parameters):
            raise self._wrong("begins with weights that are not finite", "Check how they are initialised.")
        if not _share_nothing(network, again) or not _same_weights(network, again):
            raise self._wrong(
                "is not the same when it is made twice: the callable keeps something between calls",
                "Let each call make a new network that depends on nothing else.",
            )
        images = torch.rand(2, 3, input_size_px, input_size_px, generator=torch.Generator().manual_seed(0))
        images[1] *= 0.2  # a dark one, so that a network that looks at the whole batch is found out
        with _random_state(0):
            self._require_gradients(network, self._logits(network.train(), images))
        network.load_state_dict(again.state_dict())
        with torch.no_grad(), _random_state(0):
            both, repeated = self._logits(network.eval(), images), self._logits(network, images)
            alone = torch.cat([self._logits(network, image[None]) for image in images])
        for other, what in ((repeated, "from call to call"), (alone, "with the patches beside it")):
            if not torch.allclose(both, other, rtol=_ALIKE, atol=_ALIKE):
                raise self._wrong(
                    f"gives a patch a logit that changes {what}, in evaluation mode",
                    "Let dropout, noise and batch norm follow `self.training`.",
                )

    def require_batch_of_one(self, input_size_px: int, patches: int, batch_size: int) -> None:
        """Raise ConfigError where the network cannot learn from one patch, which is the last batch of a pass."""
        with _random_state(0):
            try:
                self.factory().train()(torch.rand(1, 3, input_size_px, input_size_px))
            except Exception as error:
                raise self._wrong(
                    f"does not learn from one patch, which is the last of {patches:,} in batches of {batch_size} "
                    f"({_told(error)})",
                    "Set fit.batch_size to another number.",
                ) from error

    def _logits(self, network: nn.Module, images: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n 1"]:
        n, size_px = len(images), images.shape[-1]
        try:
            logits = network(images)
        except Exception as error:
            raise self._wrong(
                f"does not take an input of ({n}, 3, {size_px}, {size_px}): {_told(error)}",
                "Correct it, or set preprocess.size_px to the size that it takes.",
            ) from error
        if not isinstance(logits, Tensor) or logits.shape != (n, 1):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            told = f"gives {shape} for an input of ({n}, 3, {size_px}, {size_px}), not ({n}, 1)"
            raise self._wrong(told, "Let it end in one logit a patch.")
        if not torch.isfinite(logits).all():
            raise self._wrong("gives logits that are not finite", "Check its initial weights.")
        return logits

    def _require_gradients(self, network: nn.Module, logits: Float[Tensor, "n 1"]) -> None:
        if not logits.requires_grad:
            raise self._wrong("gives logits that no parameter has a part in", "Do not detach them.")
        torch.autograd.backward(logits.sum())
        if not all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None):
            raise self._wrong("has gradients that are not finite", "Check its initial weights.")

    def _wrong(self, what: str, remedy: str) -> ConfigError:
        return ConfigError(f"the network {self.name!r} {what}", where="network", remedy=remedy)


@dataclass(frozen=True)
class Recipes:
    """The networks of a user's own that are at hand."""

    known: tuple[Recipe, ...] = ()

    @classmethod
    def of(cls, given: Given | None) -> Recipes:
        """Raises ConfigError for what is no callable with a source, and for two of one name."""
        named: Iterable[tuple[str | None, Any]]
        if given is None:
            return cls()
        if isinstance(given, Mapping):
            named = given.items()
        else:
            named = [(None, each) for each in (given if isinstance(given, Sequence) else [given])]
        known = tuple(Recipe.of(factory, name) for name, factory in named)
        names = [recipe.name for recipe in known]
        if len({name.casefold() for name in names}) < len(names):
            raise ConfigError("two networks have one name", where="network", remedy="Give a mapping of names to them.")
        return cls(known)

    @property
    def addresses(self) -> dict[str, list[str]]:
        """By the name of each, its address as `address_of` has it; raises alike."""
        return {recipe.name: address_of(recipe.factory, recipe.name, "network") for recipe in self.known}

    @classmethod
    def at(cls, addresses: Mapping[str, Sequence[str]]) -> Recipes:
        """Those at the addresses, whose modules are imported: their code runs. Raises ConfigError for other sources."""
        return cls(tuple(Recipe.of(at_address(each, name, "network"), name) for name, each in addresses.items()))

    def of_source(self, model: OwnModel) -> Recipe | None:
        return next((recipe for recipe in self.known if recipe.source_sha256 == model.source_sha256), None)

    def called(self, name: str) -> Recipe | None:
        return next((recipe for recipe in self.known if recipe.name == name), None)

    def to_train(self, model: OwnModel) -> Recipe:
        """What makes the network of these settings; ConfigError where it is not at hand, or of another source."""
        if found := self.of_source(model):
            return found
        if other := self.called(model.name):
            told = f"has another source ({other.source_sha256[:12]}) than the settings name"
            raise ConfigError(
                f"the network {model.name!r} {told} ({model.source_sha256[:12] or 'none'})",
                where="model",
                remedy="Give the one that they name, or leave model.source_sha256 to the call.",
            )
        raise ConfigError(
            f"the network {model.name!r} is only named by the settings, which hold no code",
            where="model",
            remedy="Give it: network=... to fit or compare, --network module:factory on the command line.",
        )


NONE: Final = Recipes()


def require_same_sources(before: Mapping[str, str], now: Mapping[str, str], *, where: Path) -> None:
    """Raise RunError where a network is of another source than the one of its name that a folder was begun with."""
    for name in before.keys() & now.keys():
        if before[name] != now[name]:
            was, given = before[name][:12], now[name][:12]
            raise RunError(
                f"was started with the network {name!r} of source {was}; the one given is of source {given}",
                where=where,
                remedy="Resume it with the source as it was, or choose another folder.",
            )


@contextmanager
def _random_state(seed: int) -> Iterator[None]:
    """PyTorch's, NumPy's and Python's global random state as the seed has it; afterwards as they were."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % _LARGEST_SEED)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)
            random.setstate(of_python)


def _is_lazy(parameter: nn.Parameter) -> bool:
    return isinstance(parameter, nn.parameter.UninitializedParameter)


def _same_weights(a: nn.Module, b: nn.Module) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def _share_nothing(a: nn.Module, b: nn.Module) -> bool:
    return a is not b and not {id(tensor) for tensor in a.parameters()} & {id(tensor) for tensor in b.parameters()}


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


# --- functions and classes in files --------------------------------------------------------------------

Kind = Literal["network", "metric"]
"""What a function or class of a user's own is for."""
_REMEDIES: Final[dict[Kind, str]] = {
    "network": "Give a function without arguments, or the class of the network, defined in a file.",
    "metric": "Give a function that is defined in a file.",
}


def address_of(thing: Any, name: str, kind: Kind) -> list[str]:
    """The module of a function or class, its name there, by which other processes find it, and its source's digest.

    Raises ConfigError for what no other process would find.
    """
    source = source_digest(thing, name, kind)
    if thing.__module__ == "__main__" or not thing.__qualname__.isidentifier():
        told = f"the {kind} {name!r} is defined where other processes do not find it"
        remedy = "Define it at the top of a module that is imported, or do without an engine."
        raise ConfigError(told, where=kind, remedy=remedy)
    return [thing.__module__, thing.__qualname__, source]


def at_address(address: Sequence[str], name: str, kind: Kind) -> Any:
    """What is there; its module is imported: its code runs. Raises ConfigError for nothing, or another source."""
    module, inner, source = address
    try:
        found = getattr(import_module(module), inner)
    except (ImportError, AttributeError) as error:
        told = f"the {kind} {name!r} cannot be imported in another process ({error})"
        raise ConfigError(told, where=kind, remedy="Install its module there.") from error
    if source_digest(found, name, kind) != source:
        told = f"the {kind} {name!r} is of another source in another process"
        raise ConfigError(told, where=kind, remedy="Install the same module on every machine.")
    return found


def source_digest(thing: Any, name: str, kind: Kind) -> str:
    """SHA-256 of the text that defines a function or class, and of all that it uses of its own file.

    What that file imports is not read: of it the import alone counts. Raises ConfigError for what has no such text.
    """
    remedy = _REMEDIES[kind]
    if not (inspect.isfunction(thing) or inspect.isclass(thing)):
        raise ConfigError(f"{name!r} is not a function or class", where=kind, remedy=remedy)
    if inspect.isfunction(thing) and thing.__closure__:
        held = ", ".join(thing.__code__.co_freevars)
        told = f"{name!r} takes {held} from the function around it, so its source does not say what it makes"
        raise ConfigError(told, where=kind, remedy=remedy)
    try:
        lines, line = inspect.findsource(thing)
        statements = _used(ast.parse("".join(lines)).body, line + 1)
    except (OSError, TypeError, SyntaxError) as error:
        raise ConfigError(f"the source of {name!r} cannot be read ({error})", where=kind, remedy=remedy) from error
    text = ["".join(lines[_first_line(each) - 1 : each.end_lineno]) for each in statements]
    return hashlib.sha256("\n".join([thing.__qualname__, *text]).encode()).hexdigest()


def _used(body: list[ast.stmt], line: int) -> list[ast.stmt]:
    """The statement of a file that holds the line, and those that define what it uses, and so on, in order."""
    waiting = [each for each in body if _first_line(each) <= line <= cast("int", each.end_lineno)]
    taken: list[ast.stmt] = []
    while waiting:
        taken.append(waiting.pop())
        used = {node.id for node in ast.walk(taken[-1]) if isinstance(node, ast.Name)}
        waiting += [each for each in body if each not in taken and each not in waiting and used & _defined(each)]
    return sorted(taken, key=_first_line)


def _defined(statement: ast.stmt) -> set[str]:
    """The names that a statement of a file gives a meaning."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        return {statement.name}
    names: set[str] = set()
    for node in ast.walk(statement):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.alias(name=name, asname=other):
                names.add(other or name.partition(".")[0])
    return names


def _first_line(statement: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(each.lineno for each in decorators)])
