#!/usr/bin/env bash
# Evaluate on several GPUs of one or more nodes, or on several CPU processes:
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]
# With several nodes, set NNODES, NODE_RANK and MASTER_ADDR on each node. PORT sets another port than 29500.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [arguments of tools/test.py]" >&2
    exit 2
fi
CONFIG=$1
CHECKPOINT=$2
GPUS=$3
TOOLS=$(cd "$(dirname "$0")" && pwd)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$(dirname "$TOOLS")" # for a checkout without installation
MMSEG_INVATTN_COMMAND=$(printf '%q ' "$0" "$@") # for the message that tells how to resume
export MMSEG_INVATTN_COMMAND=${MMSEG_INVATTN_COMMAND% }

exec python -m mmseg_invattn.cli.distributed \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    "$TOOLS/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
