#!/usr/bin/env bash
# Train on several GPUs of one or more nodes, or on several CPU processes:
#   tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
# With several nodes, set NNODES, NODE_RANK and MASTER_ADDR on each node. PORT sets another port than 29500.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [arguments of tools/train.py]" >&2
    exit 2
fi
CONFIG=$1
GPUS=$2
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
    "$TOOLS/train.py" "$CONFIG" --launcher pytorch "${@:3}"
