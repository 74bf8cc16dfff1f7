"""What a user can ask of data: check a folder, split it, write it in another layout, paint one.

Paths come in, files are written, records come out. A `Session` names the cache, the device and who hears of progress;
without one the defaults are used.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final

from sentinode.artefacts import claim, claim_file
from sentinode.audit.check import CHECK, Check, check_folder
from sentinode.audit.explore import EXPLORED, explore
from sentinode.config.run import DataConfig, RunConfig
from sentinode.data.folder import open_folder, pack_folder, read_folder, require_readable
from sentinode.data.listing import DataFolder
from sentinode.errors import ConfigError
from sentinode.explain.galleries import write_pictures
from sentinode.exports.patches import LAYOUTS, write_patches
from sentinode.progress import of_step
from sentinode.records import write_record
from sentinode.runs.material import gather
from sentinode.session import Session
from sentinode.splits.split import Split

_OF_A_CHECK: Final = (CHECK, EXPLORED, "pictures", "check.html")


def check(
    data: Path, config: DataConfig | None = None, session: Session | None = None, *, out: Path | None = None
) -> Check:
    """Look for everything that may be wrong with a data folder; with `out`, write check.json and check.html.

    `out` may contain an earlier check, which is replaced, and nothing else.
    """
    session = session or Session()
    with claim(out, replaces=_OF_A_CHECK) if out else nullcontext():
        folder = read_folder(data, config)
        packed = pack_folder(folder, session)
        result = check_folder(folder, packed, session)
        if out is not None:
            # Imported here, because it brings matplotlib, for which a check that is only printed need not wait.
            from sentinode.report.pages.page import write_check_page

            write_record(out / CHECK, result.record())
            write_record(out / EXPLORED, explore(packed.training, seed=0, progress=session.progress))
            write_pictures(out / "pictures", packed.everything, result.ids_to_show())
            write_check_page(out)
    return result


def split(data: Path, config: RunConfig, out: Path, session: Session | None = None) -> Split:
    """Balance, sample and split the training part; save training and validation set as id,label,side,cluster."""
    with claim_file(out):
        gathered = gather(data, config, session or Session())
        drawn = gathered.material.write_split(config, out)
    return replace(drawn, left_out=gathered.left_out | drawn.left_out)


def convert(
    data: Path, dest: Path, config: DataConfig | None = None, session: Session | None = None, *, to: str = "competition"
) -> DataFolder:
    """Write labelled patches of any layout that is read into a new folder, as any other; returns what was read.

    `to` is "competition", "classes", "table", "arrays" or "h5" (PatchCamelyon's). Pixels are those that `train` would
    see: 96 x 96. Raises ConfigError for another layout, DataError on what cannot be told or read.
    """
    session = session or Session()
    layout = next((known for known in LAYOUTS if known == to), None)
    if layout is None:
        raise ConfigError(f"unknown layout {to!r}", where="to", remedy=f"Give {', '.join(LAYOUTS)}.")
    config = config or DataConfig()
    with claim(dest):
        folder, _ = open_folder(data, config)
        packed = pack_folder(folder, session)
        require_readable(packed, config)
        write_patches(packed, dest, layout, of_step(session.progress, "write"))
    return folder


def default_phantom(session: Session | None = None) -> Path:
    """A phantom of 4,000 patches in the cache, painted once."""
    from sentinode.phantom.phantom import write_phantom  # here: painting takes SciPy, a check does not

    session = session or Session()
    root = session.cache_root / "phantom-4000-24-25"
    write_phantom(root, workers=session.workers, on_progress=of_step(session.progress, "phantom"))
    return root
