"""A finished model as one file or folder that other programs run, with a certificate of what it computes there."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import torch
from jaxtyping import Int, Shaped, UInt8

import sentinode
from sentinode.artefacts import claim
from sentinode.config.run import DataConfig
from sentinode.data.folder import pack_all, read_images
from sentinode.data.images import PATCH_SIZE_PX
from sentinode.data.patches import UNLABELLED
from sentinode.errors import ConfigError, ExportError, MissingExtraError, storage_errors
from sentinode.evaluation.calibration import logits
from sentinode.exports.certificate import PARITY, Certificate, EightBits, Reference, made_up_patches
from sentinode.exports.html_page import html_runtimes, write_html
from sentinode.exports.hugging_face import timm_runtime, write_hugging_face
from sentinode.exports.image_map import MAP, map_runtimes, write_map
from sentinode.exports.int8 import CALIBRATED_ON, Judges, write_int8
from sentinode.exports.onnx_file import ONNX, onnx_file, onnx_runtimes
from sentinode.exports.openvino_ir import IR, openvino_runtime, write_ir
from sentinode.exports.torchscript import torchscript_runtimes, write_torchscript, write_wsinfer, wsinfer_runtimes
from sentinode.exports.whole import Whole, whole
from sentinode.inference.classifier import LABELS, Classifier
from sentinode.inference.exported import Exported, Validation
from sentinode.models.own import Given, Recipes
from sentinode.progress import of_step
from sentinode.records import write_record
from sentinode.runs.load import classifier_of, open_runs
from sentinode.runs.run import Run, digest_of
from sentinode.runs.variant import Variant
from sentinode.session import Session

Format = Literal["onnx", "map", "openvino", "torchscript", "wsinfer", "huggingface", "html"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
MOST_PATCHES: Final = 2000
MOST_OF_MAP: Final = 64  # each is computed with the cells between it and its neighbours
MANIFEST: Final = "manifest.json"
_STAGING: Final = ".export.part"  # what a killed process leaves of it, the next that claims the folder removes


@dataclass(frozen=True)
class ExportManifest:
    """manifest.json of an export, written last: the SHA-256 of its files."""

    formats: tuple[str, ...]
    sha256: dict[str, str]
    sentinode_export: Literal[True] = True


def export(
    model: Path,
    to: str,
    out: Path,
    session: Session | None = None,
    *,
    data: Path | None = None,
    patches: int = MOST_PATCHES,
    spacing: float | None = None,
    network: Given | None = None,
) -> dict[str, Certificate]:
    """Write a run, an ensemble or a study's choice for other programs into the folder `out`, complete or not at all.

    `to` is one of

    - "onnx": model.onnx, one file with everything in its graph. It takes patches as they are, (n, 96, 96, 3) bytes, and
      gives `probability` and `logit`, and `calibrated` where a temperature was fitted. `load` opens it. With `data`,
      model.int8.onnx is written, too, if it is 1.2 times as fast here, and its AUC surely no .003 worse;
    - "map": map.onnx, which takes an image (32 rows + 64, 32 columns + 64, 3) and gives the same of each cell's patch;
    - "openvino": the same as model.xml and model.bin;
    - "torchscript": the same as model.pt;
    - "wsinfer": a folder of WSInfer's model zoo, for WSInfer and QuPath: torchscript_model.pt and config.json;
    - "huggingface": safetensors, config.json, a card as README.md, and model.onnx; timm opens its own backbones;
    - "html": model.html, a page that computes the model in the browser, offline: the notebook's networks only;
    - "all": each of these that the installed extras can write and the networks fit, in a folder of its name.

    The certificate, parity.json, compares each with the run on PyTorch, in every runtime that is installed, on at most
    `patches` of the run's validation set in `data`, whose `spacing` is as for `predict`; without `data` on made-up
    patches. Certificates are returned by format. Raises ExportError where a logit differs by more than 1e-4, or a
    format cannot hold the network. A run of your own network needs the same `network` as `fit`.
    """
    session = session or Session()
    formats = FORMATS if to == "all" else tuple(known for known in FORMATS if known == to)
    if not formats:
        raise ConfigError(f"unknown format {to!r}", where="to", remedy=f"Give {', '.join(FORMATS)} or all.")
    if patches < 1:
        raise ConfigError(f"cannot compare {patches} patches", where="patches", remedy="Give 1 or more.")
    with claim(out):
        runs = open_runs(model, Recipes.of(network))
        classifier = classifier_of(runs, torch.device("cpu"), folder=model, precision="float32")
        reference, judges = _reference(classifier, runs, data, patches, spacing, session)
        source = _Source(runs, classifier, whole(classifier), _described(classifier, runs), judges)
        certificates: dict[str, Certificate] = {}
        with _complete_or_absent(out, certificates) as folder:
            for one in formats:
                try:
                    certificates[one] = _write(source, one, folder / one if to == "all" else folder, reference, session)
                except (MissingExtraError, ExportError) as error:
                    if to != "all" or (isinstance(error, ExportError) and one != "html"):
                        raise
                    session.notify(f"not exported to {one}: {error}")
            if not certificates:
                raise MissingExtraError("no format can be written", remedy="Run: pip install 'sentinode[export]'")
    return certificates


@dataclass(frozen=True, eq=False)
class _Source:
    """A model, and what every format is made of."""

    runs: tuple[Run, ...]
    classifier: Classifier
    module: Whole
    record: Exported
    judges: Judges | None
    """None where no data were given."""

    @cached_property
    def onnx(self) -> bytes:
        return onnx_file(self.module, self.record)


def _write(source: _Source, to: Format, folder: Path, reference: Reference, session: Session) -> Certificate:
    told, record = of_step(session.progress, f"export to {to}"), source.record
    told(0, 1)
    folder.mkdir(exist_ok=True)
    missing: dict[str, str] = {}
    match to:
        case "onnx":
            (folder / ONNX).write_bytes(source.onnx)
            runtimes, missing = onnx_runtimes(folder / ONNX)
        case "map":
            write_map(source.module, record, folder)
            (runtimes, missing), reference = map_runtimes(folder / MAP), reference.first(MOST_OF_MAP)
        case "openvino":
            write_ir(source.onnx, record, folder)
            runtimes = openvino_runtime(folder / IR)
        case "torchscript":
            write_torchscript(source.module, record, folder)
            runtimes = torchscript_runtimes(folder)
        case "wsinfer":
            write_wsinfer(source.module, record, folder)
            runtimes = wsinfer_runtimes(folder)
        case "html":
            write_html(source.classifier, record, folder)
            runtimes, missing = html_runtimes(folder)
        case "huggingface":
            write_hugging_face(source.runs, record, source.onnx, folder)
            runtimes, missing = onnx_runtimes(folder / ONNX)
            runtimes |= timm_runtime(source.runs, source.classifier, folder)
    told(1, 1)
    certificate = reference.certificate(
        runtimes,
        missing,
        sentinode=record.sentinode,
        name=record.name,
        digest=record.digest,
        progress=session.progress,
    )
    if to == "onnx":
        certificate = replace(certificate, int8=_int8(folder / ONNX, reference, source.judges, session))
    write_record(folder / PARITY, certificate)
    return certificate


def _int8(model: Path, reference: Reference, judges: Judges | None, session: Session) -> EightBits:
    if judges is None:
        return EightBits(False, "not tried: the data that the run was trained on were not given")
    try:
        return write_int8(model, reference, judges, session.progress)
    except MissingExtraError as error:
        return EightBits(False, f"not tried: {error.what}")


@contextmanager
def _complete_or_absent(out: Path, written: Collection[str]) -> Iterator[Path]:
    """A folder to fill, whose files appear in `out` when the block has ended well, the manifest last.

    `written` are the formats, as they are known by then.
    """
    staging = out / _STAGING
    try:
        with storage_errors(out):
            staging.mkdir()
            yield staging
            files = sorted(path for path in staging.rglob("*") if path.is_file())
            digests = {path.relative_to(staging).as_posix(): digest_of(path) for path in files}
            for path in sorted(staging.iterdir()):
                path.rename(out / path.name)
        write_record(out / MANIFEST, ExportManifest(tuple(written), digests))
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _described(classifier: Classifier, runs: Sequence[Run]) -> Exported:
    return Exported(
        sentinode=sentinode.__version__,
        name=classifier.name,
        digest=digest_of_weights(runs),
        patch_size_px=PATCH_SIZE_PX,
        spacing_um_per_px=classifier.spacing_um_per_px,
        labels=LABELS,
        views=classifier.views,
        calibrations=dict(classifier.calibrations),
        operating_points=dict(classifier.operating_points),
        undecided=classifier.undecided,
        card=classifier.card(),
        validation=Validation.of(Variant("", {}, tuple(runs)).predictions),
    )


def digest_of_weights(runs: Sequence[Run]) -> str:
    """The run's own, or that of a study's runs together."""
    if len(runs) == 1:
        return runs[0].weights_digest
    return hashlib.sha256("\n".join(run.weights_digest for run in runs).encode()).hexdigest()


def _reference(
    classifier: Classifier, runs: Sequence[Run], data: Path | None, most: int, spacing: float | None, session: Session
) -> tuple[Reference, Judges | None]:
    told = of_step(session.progress, f"predict {classifier.name}")
    if data is None:
        pixels = made_up_patches()
        labels = np.full(len(pixels), UNLABELLED, np.int8)
        return Reference("made-up patches", pixels, labels, classifier.logits(pixels)), None
    seen = Variant("", {}, tuple(runs)).predictions
    listing = read_images(data, part="all", config=DataConfig(spacing_um_per_px=spacing)).listing

    def read(ids: Shaped[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 96 96 3"]:
        return np.asarray(pack_all(listing, session, rows=np.sort(listing.rows_of(ids))).pixels)

    chosen = _spread(len(seen), most)
    chosen = chosen[np.argsort(listing.rows_of(seen.ids[chosen]))]  # as they lie in the files
    pixels = read(seen.ids[chosen])
    probabilities = classifier(pixels, on_progress=told)
    reference = Reference("validation set", pixels, seen.labels[chosen], logits(probabilities))
    training = np.array(sorted(frozenset[str]().union(*(run.training_ids for run in runs))))
    cluster_of = {patch: cluster for run in runs for patch, cluster in run.clusters_by_id.items()}
    clusters = np.array([cluster_of.get(patch, "") for patch in seen.ids[chosen].tolist()], dtype=str)
    shown = read(training[_spread(len(training), CALIBRATED_ON)])
    return reference, Judges(shown, clusters, runs[0].cluster_kind, runs[0].seed)


def _spread(count: int, most: int) -> Int[np.ndarray, " n"]:
    """The places of at most so many, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))
