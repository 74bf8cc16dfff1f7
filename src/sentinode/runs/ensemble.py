"""Several finished runs -> one run that predicts with their blend, its folder like any other run's.

The members lie in the folder's `members`: trained there by `train`, or copied there from where they were finished.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from sentinode.artefacts import claim, write_atomically, write_bytes, write_text
from sentinode.config.run import SHARED, DecisionConfig, PredictConfig, RunConfig, Weighting
from sentinode.data.tables import read_table
from sentinode.errors import ConfigError, DataError, RunError, SplitError, storage_errors
from sentinode.evaluation import metrics
from sentinode.evaluation.blend import blend, cross_blend, equal_weights, fit_weights
from sentinode.evaluation.calibration import cross_folds
from sentinode.evaluation.metrics import OwnMetric
from sentinode.inference.predictions import Predictions
from sentinode.randomness import Purpose
from sentinode.records import write_record
from sentinode.runs.decision import DECISION, decide, own_scores
from sentinode.runs.environment import describe_environment, read_environment, write_environment
from sentinode.runs.material import Material
from sentinode.runs.run import (
    BLEND,
    CONFIG,
    ENVIRONMENT,
    MANIFEST,
    MEMBERS,
    SCORES,
    SPLIT_COLUMNS,
    Blend,
    Run,
    Scores,
    is_finished,
    sealed,
    write_manifest,
)
from sentinode.runs.variant import best_known_clusters
from sentinode.session import Session
from sentinode.settings import is_folder_name, override, read_toml, to_flat, to_toml

_ABSENT: Final = object()  # of a setting that a kind of section does not have


def join_runs(runs: Sequence[Run], folder: Path, weights: Weighting, session: Session) -> Run:
    """Copy finished runs into a new folder and blend them, or go on with that where it was interrupted.

    The blend of the same runs that is there already is returned as it is. Raises RunError where the runs do not go
    together, or the folder is another's.
    """
    require_blendable(runs)
    names = _member_names(runs)
    config = _shared_config(dict(zip(names, runs, strict=True)), weights)
    members = {folder / MEMBERS / name: run for name, run in zip(names, runs, strict=True)}
    if is_finished(folder) and _is_blend_of(folder, config, members):
        return Run.open(folder)
    with claim(folder, begun=CONFIG):
        return _join(folder, config, members, session)


def _join(folder: Path, config: RunConfig, members: Mapping[Path, Run], session: Session) -> Run:
    """Fill a folder that is empty, or holds what an interrupted call left."""
    identity, runs = folder / CONFIG, list(members.values())
    if not identity.is_file():
        write_text(identity, to_toml(config))
    elif not _is_blend_of(folder, config, {place: run for place, run in members.items() if place.exists()}):
        raise RunError("is not empty and holds another run", where=folder, remedy="Choose a new or empty folder.")
    for done, (place, run) in enumerate(members.items(), 1):
        if not place.exists():
            _copy(run.folder, place)
        session.progress("copy", done, len(runs))
    clusters, kind = best_known_clusters(runs)
    split = _united_split(runs, clusters)
    write_atomically(folder / "split.csv", lambda file: split.to_csv(file, index=False))
    facts = [run.environment for run in runs]
    digests = {fact.get("data_sha256") for fact in facts}
    environment = {
        **describe_environment(session.device),
        "data_sha256": digests.pop() if len(digests) == 1 else None,
        "data_note": "; ".join(dict.fromkeys(note for fact in facts if (note := fact.get("data_note")))),
        "seed": config.fit.seed,
        "split": facts[0].get("split", ""),
        "clusters": kind,
        "notices": _differences_in_data(runs),
    }
    write_environment(folder / ENVIRONMENT, environment)
    return seal_blend(folder, config, [Run.open(place) for place in members], clusters)


def _is_blend_of(folder: Path, config: RunConfig, members: Mapping[Path, Run]) -> bool:
    """Whether the folder is of this config, and each place in it holds the same finished run as is to lie there."""
    same = read_toml(folder / CONFIG, RunConfig).digest() == config.digest()
    return same and all(
        is_finished(place) and (place / MANIFEST).read_bytes() == (run.folder / MANIFEST).read_bytes()
        for place, run in members.items()
    )


def seal_blend(
    folder: Path,
    config: RunConfig,
    members: Sequence[Run],
    clusters: Mapping[str, str],
    own: Mapping[str, OwnMetric] | None = None,
) -> Run:
    """Blend the members in a folder that has config, split and environment, decide, and seal it."""
    require_blendable(members)
    first = members[0].predictions
    said = np.column_stack([_in_order_of(first, member.predictions) for member in members])
    named = np.array([clusters.get(patch, "") for patch in first.ids.tolist()])
    found = _weigh(first.labels, said, named, config)
    predictions = Predictions(first.ids, first.labels, found.blended)
    predictions.write(folder / "predictions.csv")
    write_record(folder / SCORES, Scores(**metrics.scores(predictions.labels, predictions.probabilities)))
    write_record(folder / DECISION, decide(predictions, named, config.decision, seed=config.fit.seed))
    names = [member.name for member in members]
    record = Blend(
        found.rule,
        dict(zip(names, found.weights.tolist(), strict=True)),
        dict(zip(names, found.fold_weights.T.tolist(), strict=True)),
        {member.name: member.scores for member in members},
    )
    write_record(folder / BLEND, record)
    training = frozenset().union(*(member.training_ids for member in members))
    environment = read_environment(folder / ENVIRONMENT)
    scored = own_scores(predictions, named, environment["clusters"], own or {}, seed=config.fit.seed)
    replace(members[0].record, training=len(training), network=None, own_scores=scored).write(folder)
    told = [notice for member in members for notice in member.environment.get("notices", [])]
    notices = dict.fromkeys([*environment["notices"], *told, *found.notices])
    write_environment(folder / ENVIRONMENT, {**environment, "notices": list(notices)})
    write_manifest(folder, names)
    return Run.open(folder)


def require_blendable(runs: Sequence[Run]) -> None:
    """Raise RunError, with the reason, unless these are different networks that were validated on the same patches."""
    if len(runs) < 2:
        raise RunError("an ensemble needs two runs or more", remedy="Give two runs or more.")
    by_weights: dict[str, Run] = {}
    for run in runs:
        if run.members:
            raise RunError("is an ensemble itself", where=run.folder, remedy="Give its members in its place.")
        digest = sealed(run.folder)[0]["model.safetensors"]
        if digest in by_weights:
            raise RunError(
                f"is the same network as {by_weights[digest].folder}",
                where=run.folder,
                remedy="Give each run once.",
            )
        by_weights[digest] = run
    _require_same_validation(runs)


def _require_same_validation(runs: Sequence[Run]) -> None:
    first = runs[0]
    validated = set(first.predictions.ids.tolist())
    split, labels = "Give runs of one split, balance and sample.", "Give runs of the same table of labels."
    for run in runs:
        seen = len(validated & run.training_ids)
        if seen:
            told = f"was trained on {seen:,} of the {len(validated):,} patches that {first.folder} was validated on"
            raise RunError(told, where=run.folder, remedy=split)
        if set(run.predictions.ids.tolist()) != validated:
            raise RunError(f"has another validation set than {first.folder}", where=run.folder, remedy=split)
        order = _order(first.predictions, run.predictions)
        if not np.array_equal(run.predictions.labels[order], first.predictions.labels):
            raise RunError(f"has other validation labels than {first.folder}", where=run.folder, remedy=labels)


def require_trainable(material: Material, config: RunConfig) -> None:
    """Raise ConfigError, before anything is trained, where the members of a config could not be blended."""
    seen: list[tuple[RunConfig, str]] = []
    validated = set(material.split(config).validation.tolist())
    for name, own in config.members().items():
        trained = own.canonical().model_copy(update={"predict": PredictConfig(), "decision": DecisionConfig()})
        twin = next((other for settings, other in seen if settings == trained), None)
        if twin:
            raise ConfigError(
                f"the members {twin!r} and {name!r} would be the same network",
                where="ensemble.members",
                remedy="Give one of them another fit.seed.",
            )
        if set(material.split(own).validation.tolist()) != validated:
            raise ConfigError(
                f"the member {name!r} would have another validation set than the ensemble",
                where="ensemble.members",
                remedy="Leave balance, sample and split to the settings that all members share.",
            )
        seen.append((trained, name))


@dataclass(frozen=True, eq=False)
class _Weighed:
    rule: Weighting
    weights: Float[np.ndarray, " members"]
    fold_weights: Float[np.ndarray, "folds members"]
    blended: Float[np.ndarray, " n"]
    notices: tuple[str, ...] = ()


def _weigh(
    labels: Int[np.ndarray, " n"],
    said: Float[np.ndarray, "n members"],
    clusters: Shaped[np.ndarray, " n"],
    config: RunConfig,
) -> _Weighed:
    """Weights of all patches, and the patches blended by weights that were fitted without their clusters."""
    equal = equal_weights(said.shape[1])
    unfitted = _Weighed("equal", equal, np.empty((0, len(equal))), blend(said, equal))
    if config.ensemble is None or config.ensemble.weights == "equal":
        return unfitted
    rng = Purpose.BLEND_FOLDS.rng(config.fit.seed)
    try:
        folds = cross_folds(labels, clusters, folds=config.decision.calibration_folds, rng=rng)
        blended, fold_weights = cross_blend(labels, said, folds)
        return _Weighed("fitted", fit_weights(labels, said), fold_weights, blended)
    except (DataError, SplitError) as error:
        notice = f"ensemble.weights 'fitted' became 'equal': {error.what}"
        return _Weighed("equal", equal, unfitted.fold_weights, unfitted.blended, (notice,))


def _shared_config(members: Mapping[str, Run], weights: Weighting) -> RunConfig:
    """The first member's settings, with every setting in which members differ named for each of them."""
    first = next(iter(members.values())).config
    settings = [to_flat(run.config) for run in members.values()]
    differing = [
        key
        for key in dict.fromkeys(chain(*settings))
        if key.split(".")[0] not in SHARED and len({repr(own.get(key, _ABSENT)) for own in settings}) > 1
    ]
    own = [{key: "none" if of[key] is None else of[key] for key in differing if key in of} for of in settings]
    return override(first, {"ensemble.members": dict(zip(members, own, strict=True)), "ensemble.weights": weights})


def _member_names(runs: Sequence[Run]) -> list[str]:
    """The names of the runs' folders, made safe, and different where they are equal."""
    names: list[str] = []
    taken: set[str] = set()
    for run in runs:
        own = run.folder.resolve().name
        safe = "".join(c if is_folder_name(f"a{c}") else "_" for c in own).lstrip(".") or "run"
        options = [safe, *(f"{safe}-{k}" for k in range(2, len(runs) + 1))]
        names.append(next(name for name in options if name.casefold() not in taken))
        taken.add(names[-1].casefold())
    return names


def _copy(source: Path, target: Path) -> None:
    """The sealed files of a run; the folder is whole or absent."""
    staging = target.with_name(f".{target.name}.part")
    for name in (*sealed(source)[0], MANIFEST):
        write_bytes(staging / name, (source / name).read_bytes())
    with storage_errors(target):
        staging.rename(target)


def _united_split(runs: Sequence[Run], clusters: Mapping[str, str]) -> pd.DataFrame:
    """What any of the runs was trained on, and what they were all validated on."""
    tables = [read_table(run.folder / "split.csv", purpose=SPLIT_COLUMNS) for run in runs]
    trained = pd.concat([table[table["side"] == "training"] for table in tables]).drop_duplicates("id")
    united = pd.concat([trained, tables[0][tables[0]["side"] == "validation"]], ignore_index=True)
    return united.assign(cluster=[clusters.get(patch, "") for patch in united["id"].tolist()])


def _differences_in_data(runs: Sequence[Run]) -> list[str]:
    told = []
    if len({run.environment.get("data_sha256") for run in runs}) > 1:
        told.append("the members were trained on different patches or labels; only the validation patches are equal")
    elif len({run.training_ids for run in runs}) > 1:
        told.append("the members have different training sets; only the validation patches are equal")
    return told


def _order(first: Predictions, other: Predictions) -> Int[np.ndarray, " n"]:
    """Which row of the other holds each patch of the first; both have the same patches."""
    by_id = np.argsort(other.ids)
    return np.asarray(by_id[np.searchsorted(other.ids[by_id], first.ids)])


def _in_order_of(first: Predictions, other: Predictions) -> Float[np.ndarray, " n"]:
    return np.asarray(other.probabilities[_order(first, other)])
