"""Train variants on the same seeds and folds, and one model on several splits: the runs behind every comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sentinode.config.run import DrawnSplit, RunConfig, Scalar, Value
from sentinode.config.study import StudyConfig
from sentinode.errors import ConfigError, SentinodeError, TasksError
from sentinode.models.own import NONE, Recipes
from sentinode.progress import ALL_RUNS
from sentinode.runs.material import Material
from sentinode.runs.run import Run, is_finished
from sentinode.runs.tasks import train_together
from sentinode.runs.train import train_run
from sentinode.runs.variant import Variant
from sentinode.settings import override
from sentinode.splits.split import Split
from sentinode.studies.comparison import Comparison, paired

_AS_SET: Final = "as-set"  # the only variant of a study that compares none


@dataclass(frozen=True)
class PlannedRun:
    """A run that a study asks for: of which variant it is, its folder's name, and its settings."""

    variant: str
    name: str
    config: RunConfig


class RunStore:
    """Trains runs below one folder, and never the same run twice: equal settings share one folder.

    `planned`: how many runs will be asked for; progress is told how many are done. `own` makes the networks of a user's
    own that their settings name. Where the session has an engine, it trains those of `train_all` together.
    """

    def __init__(self, material: Material, folder: Path, *, planned: int = 0, own: Recipes = NONE) -> None:
        self.material, self.folder, self.own = material, folder, own
        self._runs: dict[str, Run] = {}
        self.planned, self._asked_for = planned, set[str]()

    def train(self, name: str, config: RunConfig, *, on_epoch: Callable[[dict[str, Any]], None] | None = None) -> Run:
        """The run of these settings: trained in `<folder>/<name>`, unless it is here under another name.

        A run that is here already still reports its epochs to `on_epoch`.
        """
        key, told = config.digest(), on_epoch
        self._tell()
        if key not in self._runs:
            if not is_finished(self.folder / name):
                told = None
            self._runs[key] = train_run(
                self.material, config, self.folder / name, resume=True, on_epoch=on_epoch, own=self.own
            )
        run = self._runs[key]
        if told:
            for row in run.history.to_dict("records"):
                told({str(column): value for column, value in row.items()})
        self._asked_for.add(name)
        self._tell()
        return run

    @property
    def counted(self) -> int:
        """How many of the planned runs were asked for."""
        return len(self._asked_for)

    def has(self, run: PlannedRun) -> bool:
        """Whether it is there already, under whatever name."""
        return run.config.digest() in self._runs or is_finished(self.folder / run.name)

    def train_all(self, asked: Sequence[tuple[str, RunConfig]]) -> None:
        """Have the session's engine, if there is one, train what is not there yet; `train` opens what it trained.

        Raises TasksError where some could not be trained; the others are.
        """
        if self.material.session.engine is None:
            return
        first: dict[str, tuple[Path, RunConfig]] = {}
        for name, config in asked:
            if (key := config.digest()) not in self._runs:
                first.setdefault(key, (self.folder / name, config))
        others = self.counted + len(asked) - len(first)
        train_together(self.material, list(first.values()), self.own, done=others, total=self.planned)
        self._asked_for.update(name for name, _ in asked)

    def train_part(self, asked: Sequence[tuple[str, RunConfig]]) -> None:
        """Train what is not there yet, with the session's engine or without; a run that fails stops no other.

        Raises TasksError where some could not be trained; the others are.
        """
        self.train_all(asked)
        failed: list[str] = []
        for name, config in asked:
            try:
                self.train(name, config)
            except SentinodeError as error:
                failed.append(f"{name}: {str(error).rstrip('.')}")
        if failed:
            raise TasksError(
                f"{len(failed)} of {len(asked)} failed: {'; '.join(failed)}",
                where=self.folder,
                remedy="The others are finished; correct that, and give the same command again.",
            )

    def _tell(self) -> None:
        if len(self._asked_for) < self.planned:
            self.material.session.progress(ALL_RUNS, len(self._asked_for), self.planned)


def grid(config: StudyConfig) -> list[tuple[str, dict[str, Scalar]]]:
    """What a variant's runs are called and set to, one for each seed and, with `split.folds`, each fold.

    Over folds every seed draws a split of its own, so the spread over seeds is that of split, initial weights,
    order of batches and augmentation together; without, all seeds share one split. Raises ConfigError where the
    members of an ensemble would be the same networks under every seed.
    """
    members = config.ensemble.members if config.ensemble else {}
    fixed = [name for name, own in members.items() if "fit.seed" in own]
    if fixed and len(config.seeds) > 1:
        raise ConfigError(
            f"the member {fixed[0]!r} has a fit.seed of its own and would be the same network under all seeds",
            where="ensemble.members",
            remedy="Leave it out, give a single one of `seeds`, or use `train`.",
        )
    runs: list[tuple[str, dict[str, Scalar]]] = []
    for seed in config.seeds:
        if config.split.folds is None:
            runs.append((f"seed{seed}", {"fit.seed": seed}))
        else:
            runs += [
                (f"seed{seed}-fold{fold}", {"fit.seed": seed, "split.seed": seed, "split.fold": fold})
                for fold in range(1, config.split.folds + 1)
            ]
    return runs


def compare_variants(config: StudyConfig, store: RunStore) -> Comparison:
    """Train every variant of the config on every seed and fold; without variants the config alone."""
    require_comparable(config, store.material)
    settings = config.compare.variants or {_AS_SET: {}}
    return paired(_train(settings, runs_of_comparison(config), store))


def runs_of_comparison(config: StudyConfig) -> list[PlannedRun]:
    """Every variant's run on every seed and fold, in the order in which they are trained."""
    return _planned(config, config.variants() or {_AS_SET: config.run_config()})


def require_comparable(config: StudyConfig, material: Material) -> None:
    """Raise ConfigError where variants would validate on other patches, or be the same runs."""
    configs = config.variants() or {_AS_SET: config.run_config()}
    _refuse_twins(configs, require_same_validation(config, configs, material))


def require_same_validation(
    config: StudyConfig, variants: Mapping[str, RunConfig], material: Material
) -> dict[str, Split]:
    """The split of each variant, or ConfigError, before anything is trained, where they validate on other patches."""
    _, of_place = grid(config)[0]
    splits = {name: material.split(override(own, of_place)) for name, own in variants.items()}
    first, *others = splits
    for name in others:
        if set(splits[name].validation.tolist()) != set(splits[first].validation.tolist()):
            raise ConfigError(
                f"{name!r} would have another validation set than {first!r}",
                remedy="Leave balance, sample.per_class and split to the settings that all share.",
            )
    return splits


def _refuse_twins(variants: Mapping[str, RunConfig], splits: Mapping[str, Split]) -> None:
    """Raise ConfigError for variants that differ in the way of splitting alone, and yet draw the same patches."""
    elsewhere = {"balance": None, "sample": None, "split": DrawnSplit()}
    names: dict[tuple[str, ...], str] = {}
    for name, own in variants.items():
        trained = own.model_copy(update=elsewhere).digest(), *splits[name].training.tolist()
        if (twin := names.setdefault(trained, name)) != name:
            raise ConfigError(
                f"{twin!r} and {name!r} give the same settings and patches", remedy="Leave one of them out."
            )


def audit_leak(config: StudyConfig, store: RunStore) -> Comparison:
    """Train one model, the config's own, on folds that keep slides or groups together and on random ones.

    The trusted split comes first; the random one ignores slides, as the notebook's did. Every patch is validated on
    once under each split and seed, so differences are paired. Raises ConfigError as `require_auditable` does.
    """
    require_auditable(config)
    return paired(_train(audited_splits(config), runs_of_audit(config), store), same_split=False)


def runs_of_audit(config: StudyConfig) -> list[PlannedRun]:
    """The runs of each split that an audit compares, in the order in which they are trained."""
    base = config.run_config()
    configs = {name: override(base, settings) for name, settings in audited_splits(config).items()}
    return _planned(config, configs, prefix="leak-")


def audited_splits(config: StudyConfig) -> dict[str, dict[str, Scalar]]:
    """The settings of each split that an audit compares, the trusted one first."""
    return {"grouped": {"split.by": config.split.by}, "random": {"split.by": "random"}}


def require_auditable(config: StudyConfig) -> None:
    """Raise ConfigError without folds, or where the config's split is no grouped one: before anything is trained."""
    if config.split.folds is None:
        raise ConfigError("the leak audit needs folds", where="split.folds", remedy="Give --folds 3, say.")
    if config.split.by in ("random", "file"):
        raise ConfigError(
            f"the leak audit compares a grouped split with a random one, not with split.by {config.split.by!r}",
            where="split.by",
            remedy="Set it to auto, slide or group.",
        )


def _planned(config: StudyConfig, configs: Mapping[str, RunConfig], *, prefix: str = "") -> list[PlannedRun]:
    return [  # variants within a split: its pixels are prepared once
        PlannedRun(variant, f"{prefix}{variant}-{place}", override(own, of_place))
        for place, of_place in grid(config)
        for variant, own in configs.items()
    ]


def _train(
    settings: Mapping[str, Mapping[str, Value]], planned: Sequence[PlannedRun], store: RunStore
) -> list[Variant]:
    runs: dict[str, list[Run]] = {name: [] for name in settings}
    store.train_all([(run.name, run.config) for run in planned])
    for run in planned:
        runs[run.variant].append(store.train(run.name, run.config))
    return [Variant(name, settings[name], tuple(of_variant)) for name, of_variant in runs.items()]
