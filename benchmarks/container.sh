#!/usr/bin/env bash
# The tests as in a container, for root on Linux: a user that has no name and no home and may write nowhere but below one
# temporary folder, so not into the package; output that shows ASCII alone, in the C locale; and as many busy programs as
# there are processors.
#
#     benchmarks/container.sh                          # all tests
#     benchmarks/container.sh tests/test_machine.py    # or those of some files
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "container.sh: be root, to become a user without a name" >&2; exit 2; }
scratch=$(mktemp -d)
chmod 777 "$scratch"
busy=()
trap 'kill "${busy[@]}" 2>/dev/null; rm -rf "$scratch"' EXIT
for _ in $(seq "$(getconf _NPROCESSORS_ONLN)"); do
    .venv/bin/python -c 'while True: pass' &
    busy+=($!)
done
env -i PATH=/usr/bin:/bin TMPDIR="$scratch" LC_ALL=C TZ=Asia/Kathmandu PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 \
    PYTHONIOENCODING=ascii PYTHONDONTWRITEBYTECODE=1 \
    benchmarks/as_nobody.sh .venv/bin/python -m pytest -p no:cacheprovider --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
