#!/usr/bin/env bash
# Train with several processes; for several machines set NNODES, NODE_RANK, MASTER_ADDR and PORT:
#   tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
# One process per GPU; without a GPU they run on the CPU over gloo.
set -euo pipefail

if [ "$#" -lt 2 ]; then
    echo "usage: $0 CONFIG PROCESSES [options of tools/train.py]" >&2
    exit 2
fi
CONFIG=$1
PROCESSES=$2
HERE=$(dirname "$(readlink -f "$0")")

PYTHONPATH="$HERE/..${PYTHONPATH:+:$PYTHONPATH}" "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$PROCESSES" \
    "$HERE/train.py" "$CONFIG" --launcher pytorch "${@:3}"
