#!/usr/bin/env bash
# Run a command as a user that has no name and no home and owns nothing, for root on Linux: benchmarks/as_nobody.sh COMMAND...
# Where Python lies in a folder that only root may enter (/root), this command alone sees that folder open to all.
set -euo pipefail
user=12345
python=$(readlink -f "$(dirname "$0")/../.venv/bin/python")
as_nobody=(setpriv --reuid "$user" --regid "$user" --clear-groups)
if "${as_nobody[@]}" stat "$python" >/dev/null 2>&1; then
    exec "${as_nobody[@]}" "$@"
fi
export top=/$(cut -d / -f 2 <<<"$python")
exec unshare --mount bash -euc '
    mount -t tmpfs tmpfs /mnt
    mkdir /mnt/upper /mnt/work
    mount -t overlay overlay -o "lowerdir=$top,upperdir=/mnt/upper,workdir=/mnt/work" "$top"
    chmod 755 "$top"
    exec "$@"' bash "${as_nobody[@]}" "$@"
