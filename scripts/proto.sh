#!/usr/bin/env bash
# Generate Python from proto/ (`write`, the default), or say whether what is committed is fresh (`check`).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PROTO_PYTHON:-.venv/bin/python}"

generate() {
    "$python" -m grpc_tools.protoc -I proto \
        --python_out="$1" --pyi_out="$1" --grpc_python_out="$1" \
        proto/cascade_dist/v1/*.proto
}

case "${1:-write}" in
write)
    rm -f cascade_dist/v1/*_pb2.py cascade_dist/v1/*_pb2.pyi cascade_dist/v1/*_pb2_grpc.py
    generate .
    ;;
check)
    fresh="$(mktemp -d)"
    trap 'rm -rf "$fresh"' EXIT
    generate "$fresh"
    if ! diff -r -u -x __init__.py -x py.typed -x __pycache__ "$fresh/cascade_dist/v1" cascade_dist/v1; then
        echo "cascade_dist/v1 is not what proto/ says: run 'make proto' and commit the result" >&2
        exit 1
    fi
    ;;
*)
    echo "usage: scripts/proto.sh [write|check]" >&2
    exit 2
    ;;
esac
