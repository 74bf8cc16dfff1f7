"""Commands on data: paint, check and split it, and limit the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sentinode.apps.options import (
    Cache,
    Config,
    Data,
    Destination,
    GroupBy,
    Groups,
    Preset,
    Settings,
    Slides,
    Spacing,
    Workers,
    asked_run,
    cache_root,
    session_of,
)
from sentinode.apps.paths import require_data


def phantom(
    dest: Destination,
    patches: Annotated[int, typer.Option(help="Patches, training and test together.")] = 4000,
    slides: Annotated[int, typer.Option(help="Number of slides that they are cut from.")] = 24,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 25,
    whole_slides: Annotated[
        int | None, typer.Option(metavar="N", help="Write N whole slides with annotations instead of patches.")
    ] = None,
    slide_defects: Annotated[
        list[str] | None,
        typer.Option(
            "--slide-defect",
            metavar="KIND",
            help="A defect of one of the whole slides, repeated for several: no spacing, wrong spacing, one level, "
            "damaged tile, black padding, pen, pale, two sections, glass.",
        ),
    ] = None,
    workers: Workers = 2,
) -> None:
    """Paint synthetic tissue and write it as a competition folder, or as whole slides, together with the truth."""
    from sentinode.apps import console

    if whole_slides is not None or slide_defects:
        _whole_slides(dest, whole_slides or 0, slide_defects or [], seed, workers)
        return
    from sentinode.phantom.phantom import write_phantom
    from sentinode.progress import of_step

    with console.steps() as progress:
        summary = write_phantom(
            dest, patches=patches, slides=slides, seed=seed, workers=workers, on_progress=of_step(progress, "phantom")
        )
    console.say(f"{summary.patches:,} patches of synthetic tissue in {dest}")


def _whole_slides(dest: Path, count: int, defects: list[str], seed: int, workers: int) -> None:
    from sentinode.apps import console
    from sentinode.errors import ConfigError
    from sentinode.phantom.whole_slides import SLIDE_DEFECTS, SlideDefect, write_whole_slides
    from sentinode.progress import of_step

    known: dict[str, SlideDefect] = {kind: kind for kind in SLIDE_DEFECTS}
    if unknown := [kind for kind in defects if kind not in known]:
        raise ConfigError(
            f"unknown defect {unknown[0]!r}", where="--slide-defect", remedy=f"Give {', '.join(SLIDE_DEFECTS)}."
        )
    asked = [known[kind] for kind in defects]
    with console.steps() as progress:
        told = of_step(progress, "phantom slides")
        write_whole_slides(dest, count, defects=asked, seed=seed, workers=workers, on_progress=told)
    console.say(f"{count:,} whole slides of synthetic tissue in {dest}")


def check(
    data: Data,
    out: Annotated[Path | None, typer.Option(help="Folder for check.json and check.html.")] = None,
    slides: Slides = None,
    groups: Groups = None,
    spacing: Spacing = None,
    settings: Settings = None,
    cache: Cache = None,
    workers: Workers = 2,
) -> None:
    """Look for everything that may be wrong with a data folder; nothing is changed or dropped."""
    require_data(data)

    from sentinode.api import data as api
    from sentinode.apps import console
    from sentinode.audit.explore import baseline

    asked = asked_run(None, None, settings, slides, groups, spacing=spacing)
    with console.steps() as progress:
        result = api.check(data, asked.data, session_of(cache, "cpu", workers, progress), out=out)
    rows = [[row.what, f"{row.count:,}", row.note] for row in result.table()]
    console.show_table(
        f"{data}{f' ({result.folder.note})' if result.folder.note else ''}", ["what", "count", "note"], rows
    )
    if result.folder.layout:
        console.say(result.folder.layout)
    for row in result.table():
        if row.severity in ("error", "warning"):
            console.say(f"{row.severity}: {row.what}, {row.count:,}. Next: {row.next_step}.")
    console.say(baseline(result.brightness_auc))
    if out:
        console.say(f"{out / 'check.html'}")


def convert(
    data: Data,
    dest: Destination,
    to: Annotated[
        str,
        typer.Option(
            metavar="LAYOUT",
            help="Layout: competition, classes (folders), table (path,label), arrays (npy) or h5 (PCam).",
        ),
    ] = "competition",
    slides: Slides = None,
    groups: Groups = None,
    spacing: Spacing = None,
    settings: Settings = None,
    cache: Cache = None,
    workers: Workers = 2,
) -> None:
    """Write labelled patches of any layout into a new folder, as any other; of larger images their centres."""
    asked = asked_run(None, None, settings, slides, groups, spacing=spacing)
    require_data(data)

    from sentinode.api import data as api
    from sentinode.apps import console

    with console.steps() as progress:
        folder = api.convert(data, dest, asked.data, session_of(cache, "cpu", workers, progress), to=to)
    parts = [f"{len(folder.training):,} labelled patches"]
    if folder.test is not None:
        parts.append(f"{len(folder.test):,} of a test part")
    console.say(f"{folder.layout or folder.kind}: {' and '.join(parts)} in {dest}")


def split(
    data: Data,
    out: Annotated[Path, typer.Option(help="Table id,label,side,cluster to write.")],
    slides: Slides = None,
    groups: Groups = None,
    group_by: GroupBy = None,
    spacing: Spacing = None,
    preset: Preset = None,
    config: Config = None,
    settings: Settings = None,
    cache: Cache = None,
    workers: Workers = 2,
) -> None:
    """Split the patches into training and validation set and save both as ids."""
    asked = asked_run(preset, config, settings, slides, groups, group_by, spacing=spacing)
    require_data(data)

    from sentinode.api import data as api
    from sentinode.apps import console

    with console.steps() as progress:
        drawn = api.split(data, asked, out, session_of(cache, "cpu", workers, progress))
    for option, count in drawn.left_out.items():
        console.notice(f"left out: {count:,} ({option})")
    for text in drawn.notices:
        console.notice(text)
    console.say(f"{len(drawn.training):,} training and {len(drawn.validation):,} validation patches in {out}")
    console.say(f"Split {drawn.describe()}")


def cache(
    cache: Cache = None,
    limit: Annotated[
        float | None, typer.Option(min=0, metavar="GB", help="Largest size in GB from now on (default: 50).")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything that is not in use.")] = False,
) -> None:
    """List and limit the cache: what was used longest ago is deleted first, never what is in use."""
    from datetime import datetime

    from sentinode.apps import console
    from sentinode.data.cache import Limit, entries, limit_of, make_room, set_limit

    root = cache_root(cache)
    if limit is not None:
        set_limit(root, Limit(limit))
    removed = make_room(root, Limit(0.0) if clear else None) if clear or limit is not None else []
    held = entries(root)
    rows = [
        [
            entry.path.name,
            f"{entry.size_bytes / 1e6:,.1f}",
            f"{datetime.fromtimestamp(entry.used):%Y-%m-%d}",
            entry.what,
        ]
        for entry in held
    ]
    console.show_table(str(root), ["name", "MB", "last used", "what"], rows)
    total = sum(entry.size_bytes for entry in held)
    console.say(f"{total / 1e9:,.2f} of {limit_of(root).limit_gb:,g} GB")
    if removed:
        console.say(f"removed: {len(removed)}, {sum(entry.size_bytes for entry in removed) / 1e9:,.2f} GB")
