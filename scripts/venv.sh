#!/usr/bin/env bash
# Make .venv, if need be, and install this project into it with the extras named in $1 (may be empty).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras="${1:-}"

old_enough='import sys; sys.exit(sys.version_info < (3, 11))'
can_make_venvs='import ensurepip, venv'

find_python() {
    local seen="" candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python; do
        "$candidate" -c "$old_enough" >/dev/null 2>&1 || continue
        seen="${seen:-$candidate}"
        "$candidate" -c "$can_make_venvs" >/dev/null 2>&1 || continue
        echo "$candidate"
        return
    done
    if [ -n "$seen" ]; then
        local version
        version="$("$seen" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
        echo "$seen is Python $version but cannot make virtual environments (no ensurepip)." >&2
        echo "On Debian and Ubuntu: sudo apt-get install python$version-venv" >&2
    else
        echo "Cascade Dist needs Python 3.11 or newer; none was found as python3, python3.13, python3.12 or python3.11." >&2
        echo "On Debian and Ubuntu: sudo apt-get install python3 python3-venv. Or name one: make PYTHON=path/to/python ..." >&2
    fi
    return 1
}

if ! .venv/bin/python -c "$old_enough; import pip" >/dev/null 2>&1; then
    python="$(find_python)"
    rm -rf .venv
    "$python" -m venv .venv
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --constraint constraints.txt --editable ".${extras:+[$extras]}"
