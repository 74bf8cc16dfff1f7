"""Options that several commands share, and what they ask for."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sentinode.apps.paths import require_table
from sentinode.engine.shard import Shard
from sentinode.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from sentinode.config.run import RunConfig, Weighting
    from sentinode.config.study import StudyConfig
    from sentinode.engine.engine import Engine
    from sentinode.progress import Progress
    from sentinode.session import Session

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="Competition folder or its zip file, PatchCamelyon's files, class folders, a table path,label or arrays.",
    ),
]
Destination = Annotated[Path, typer.Argument(metavar="DEST", help="New folder to write.")]
Finished = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run or study.")]
Preset = Annotated[
    str | None,
    typer.Option(
        help="Settings to start from: quick (default of study), seed (the notebook's), fair, swift, brisk, strong, "
        "strong-gpu."
    ),
]
Config = Annotated[Path | None, typer.Option(metavar="FILE.toml", help="Settings to start from, in place of a preset.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change a setting; may be repeated.")
]
Slides = Annotated[
    Path | None, typer.Option(metavar="FILE.csv[:column]", help="Table id,slide (default: slides.csv in DATA).")
]
Groups = Annotated[
    Path | None, typer.Option(metavar="FILE.csv[:column]", help="Table id,group (default: groups.csv in DATA).")
]
GroupBy = Annotated[
    str | None,
    typer.Option(metavar="BY", help="Split by: auto, slide, group, random or file (with --set split.file=FILE.csv)."),
]
Spacing = Annotated[
    float | None,
    typer.Option(
        metavar="UM",
        help="What a pixel of the images measures, in um, where they are not patches of 96 x 96: their centre is "
        "taken, resampled to 0.972 um.",
    ),
]
PseudoLabels = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN", help="Finished run, ensemble or study: its confident labels of DATA's test part join training."
    ),
]
Folds = Annotated[
    int | None,
    typer.Option(
        metavar="K", help="Cross-validate with K folds, another partition for each seed (default: one split)."
    ),
]
Network = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FACTORY",
        help="A network of your own: a function or class, called without arguments, in a module of this folder or the "
        "environment. The module is imported: its code runs.",
    ),
]
Networks = Annotated[
    list[str] | None,
    typer.Option(
        "--network",
        metavar="MODULE:FACTORY",
        help="What made a network of your own; repeat for several. Its module, of this folder or the environment, is "
        "imported: its code runs.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted command.")]
Cache = Annotated[
    Path | None,
    typer.Option(envvar="SENTINODE_CACHE", help="Folder for packed patches (default: the user's cache)."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Workers = Annotated[int, typer.Option(min=1, help="Threads or processes for reading and checking images.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Threads for computation (default: one for each free processor)."),
]

ShardName = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="K/N",
        help="Do the K-th of N shares of the work, as 3/20: for the jobs of a batch system, side by side.",
    ),
]
Collect = Annotated[
    bool, typer.Option("--collect", help="End the work of all shards: compare, predict, write the pages.")
]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="NAME",
        help="Who does what is many: here (this process, one after the other), local (several processes of this "
        "machine), ray (Ray, begun here) or ray://HOST:PORT.",
    ),
]
ProcessCount = Annotated[
    int | None,
    typer.Option(
        "--processes", min=1, metavar="N", help="With --engine: most at a time (default: as many as processors allow)."
    ),
]
Address = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="With --engine ray: join the Ray cluster there.")
]
TaskSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY.PATH=VALUE",
        help="With --engine: running.cpus, running.gpus or running.memory_mb of each task, where that is not what the "
        "run's settings say; may be repeated.",
    ),
]

Runtime = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="fastest (of what is installed, where PyTorch would take more than a minute) or pytorch.",
    ),
]


def asked_study(
    preset: str | None,
    config: Path | None,
    settings: list[str] | None,
    slides: Path | None,
    groups: Path | None,
    group_by: str | None = None,
    folds: int | None = None,
    *,
    spacing: float | None = None,
    default: str,
) -> StudyConfig:
    """The settings of a study that a command line asks for: a preset or a file, with single settings put over it."""
    from sentinode.settings import override

    options = {"data.slides": slides, "data.groups": groups, "data.spacing_um_per_px": spacing}
    given = _given(settings, options | {"split.by": group_by, "split.folds": folds})
    asked = override(_base(preset, config, default), given, where="the options")
    of_repeats = {"fit.seed", "split.fold"} | (set() if asked.split.folds is None else {"split.seed"})
    if numbered := of_repeats.intersection(given):
        raise ConfigError(
            f"setting {min(numbered)!r} belongs to `train`; a study repeats every variant under its `seeds` and folds",
            where="the options",
            remedy="Set seeds, or leave it out.",
        )
    for table in (asked.data.slides, asked.data.groups, asked.data.attributes):
        require_table(table)
    return asked


def asked_run(
    preset: str | None,
    config: Path | None,
    settings: list[str] | None,
    slides: Path | None,
    groups: Path | None,
    group_by: str | None = None,
    *,
    spacing: float | None = None,
    pseudo_labels: Path | None = None,
) -> RunConfig:
    """The settings of a run that a command line asks for; a study's own would do nothing here, and are refused."""
    from sentinode.config.run import RunConfig
    from sentinode.config.study import StudyConfig
    from sentinode.settings import override

    options = {"data.slides": slides, "data.groups": groups, "data.spacing_um_per_px": spacing}
    given = _given(settings, options | {"split.by": group_by, "teacher.run": pseudo_labels})
    for name in given:
        if name.split(".")[0] in StudyConfig.model_fields.keys() - RunConfig.model_fields.keys():
            raise ConfigError(
                f"setting {name!r} belongs to a study", where="the options", remedy="Use compare, tune or study."
            )
    return override(_base(preset, config, "fair").run_config(), given, where="the options")


def of_tasks(settings: list[str] | None, engine: str) -> dict[str, Any]:
    """What an engine's tasks are to take; raises ConfigError where there is no engine."""
    from sentinode.settings import parse_settings

    if settings and engine == "here":
        raise ConfigError("belongs to --engine", where="--set", remedy="Add that, or leave it out.")
    return parse_settings(settings or [])


def asked_student(student: str, teacher: Path, settings: list[str] | None) -> RunConfig:
    """The settings of a teacher's student: a preset by its name or a file, with single settings put over it."""
    from sentinode.config.presets import PRESETS
    from sentinode.config.run import SHARED_WITH_TEACHER
    from sentinode.settings import override

    preset, config = (student, None) if student in PRESETS or "." not in student else (None, Path(student))
    given = _given(settings, {"teacher.labels": "soft", "teacher.run": str(teacher)})
    for name in given:
        if name.split(".")[0] in SHARED_WITH_TEACHER:
            raise ConfigError(
                f"setting {name!r} is the teacher's", where="the options", remedy="Leave it out, or use train."
            )
    return override(_base(preset, config, "swift").run_config(), given, where="the options")


def asked_shard(shard: str | None, *, collect: bool = False) -> Shard | None:
    """The shard that a command line asks for; raises ConfigError for what is none, or where all are to be collected."""
    if shard is not None and collect:
        raise ConfigError("--shard and --collect cannot be used together", remedy="Collect when all shards are done.")
    return None if shard is None else Shard.parse(shard)


def _base(preset: str | None, config: Path | None, default: str) -> StudyConfig:
    from sentinode.config.presets import load_config, load_preset

    if preset and config:
        raise ConfigError(
            "--preset and --config cannot be used together", remedy="Give one of them; --set goes with both."
        )
    return load_config(config) if config else load_preset(preset or default)


def _given(settings: list[str] | None, options: dict[str, Any]) -> dict[str, Any]:
    from sentinode.settings import parse_settings

    return {name: value for name, value in options.items() if value is not None} | parse_settings(settings or [])


def own_network(names: Sequence[str] | str | None) -> dict[str, Callable[[], Any]] | None:
    """What makes the networks that `module:factory` names, by the factories' names; modules are imported for it.

    Raises ConfigError where a module cannot be imported or has no such thing.
    """
    found: dict[str, Callable[[], Any]] = {}
    for name in [names] if isinstance(names, str) else names or []:
        module, _, factory = name.partition(":")
        if not (module and factory) or factory in found:
            told = f"{name!r} names no network" if factory not in found else f"two networks are called {factory!r}"
            raise ConfigError(told, where="--network", remedy="Write module:factory, such as my_networks:small.")
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.insert(0, here)
        try:
            imported = importlib.import_module(module)
        except Exception as error:
            told = f"the module {module!r} cannot be imported ({type(error).__name__}: {error})"
            remedy = "Give the command in the folder of the module, or install it."
            raise ConfigError(told, where="--network", remedy=remedy) from error
        if not hasattr(imported, factory):
            told, remedy = f"the module {module!r} has no {factory!r}", "Name a function or class in it."
            raise ConfigError(told, where="--network", remedy=remedy)
        found[factory] = getattr(imported, factory)
    return found or None


def weighting(asked: str) -> Weighting:
    """How an ensemble is to be weighted; raises ConfigError for another word."""
    match asked:
        case "fitted" | "equal":
            return asked
        case _:
            raise ConfigError(f"unknown weighting {asked!r}", where="--weights", remedy="Give fitted or equal.")


def origin_of(preset: str | None, config: Path | None, default: str) -> str:
    """What a report says the settings started from."""
    return config.name if config else preset or default


def session_of(
    cache: Path | None,
    device: str,
    workers: int,
    progress: Progress,
    *,
    threads: int | None = None,
    several_processes: bool = False,
    runtime: str = "fastest",
    engine: tuple[str, int | None, str | None] = ("here", None, None),
) -> Session:
    """A session of the options; raises ConfigError where a launcher began several processes of a command for one."""
    from sentinode.apps import console
    from sentinode.data.cache import COMPILER
    from sentinode.data.images import silence_decoders
    from sentinode.device import choose_device
    from sentinode.processes import ALONE, Processes
    from sentinode.progress import silent
    from sentinode.session import Session

    silence_decoders()
    root = cache_root(cache)
    # Else its compiler leaves a folder in the temporary one, by the user's name, which not every user has.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(root / COMPILER))
    processes, place = ALONE, choose_device(device)
    if _launched_processes() > 1:
        if not several_processes:
            raise ConfigError(
                "several processes were launched, and only `train` is for them", remedy="Run it in one process."
            )
        processes = Processes.launched(on_cpu=place.type == "cpu")
        place = processes.device(place)
    told, does_many = progress if processes.writes else silent, engine_of(*engine, place)
    if does_many is not None and processes.count > 1:
        raise ConfigError("several processes were launched for one run", where="--engine", remedy="Leave it out.")
    shared = _threads(threads, processes.count)
    return Session(root, place, workers, told, console.notice, processes, shared, runtime, does_many)


def engine_of(name: str, processes: int | None, address: str | None, device: torch.device) -> Engine | None:
    """The engine that the options --engine, --processes and --address ask for; None for this process."""
    from sentinode.engine.local import Local

    if address is not None and name != "ray":
        raise ConfigError("belongs to --engine ray", where="--address", remedy="Add that, or leave it out.")
    match name:
        case "here":
            if processes is not None:
                raise ConfigError("belongs to --engine local or ray", where="--processes", remedy="Add one of them.")
            return None
        case "local":
            import torch

            gpus = torch.cuda.device_count() if device.type == "cuda" else 0
            return Local(processes, tuple(f"cuda:{k}" for k in range(gpus)) or (device.type,))
        case _ if name == "ray" or name.startswith("ray://"):
            from sentinode.engine.on_ray import OnRay

            return OnRay(address if name == "ray" else name, processes)
        case _:
            told = f"unknown engine {name!r}"
            raise ConfigError(told, where="--engine", remedy="Give here, local, ray or ray://HOST:PORT.")


def cache_root(given: Path | None) -> Path:
    from sentinode.machine import default_cache

    return given or default_cache()


def _launched_processes() -> int:
    """How many processes accelerate or torchrun say they began; one where their variable is not set, or to nothing."""

    said = os.environ.get("WORLD_SIZE", "").strip() or "1"
    if not said.isdecimal():
        raise ConfigError(f"{said!r} is not a number of processes", where="WORLD_SIZE", remedy="Unset it.")
    return int(said)


def _threads(asked: int | None, processes: int) -> int | None:
    """As many threads as were asked for, or as there are free processors; None where the environment has said it.

    PyTorch's own number stays the most: it leaves out the second half of processors that are one core.
    """
    import torch

    from sentinode.apps import console
    from sentinode.machine import free_processors

    if asked is not None or processes > 1 or os.environ.get("OMP_NUM_THREADS"):
        return asked
    most, free = torch.get_num_threads(), free_processors()
    if free < most:
        console.notice(f"computing in {free} of {most} threads, as other programs are busy; --threads {most} takes all")
    return min(free, most)
