#!/usr/bin/env bash
# Builds the wheel and uses it as its users do, in environments and folders of its own: with torch alone (layers,
# inverse, export), and with the extra `onedl` (the demo, then an installed config by its name). PYTHON chooses the
# interpreter.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=$(command -v "${PYTHON:-python3}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1 PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH

say() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }

say 'build: the wheel from the source distribution, as an index gets them'
"$python" -m venv "$work/build"
"$work/build/bin/pip" install --quiet build
"$work/build/bin/python" -m build --outdir "$work/dist" "$root" > "$work/build.log" || { cat "$work/build.log"; exit 1; }
wheel=$(echo "$work"/dist/*.whl)
ls -l "$work/dist"

say 'torch alone'
"$python" -m venv "$work/bare"
"$work/bare/bin/pip" install --quiet -c "$root/requirements/onedl.txt" "$wheel"
mkdir "$work/empty" && cd "$work/empty"
"$work/bare/bin/python" "$root/tests/packaging/layers_alone.py" torch
"$work/bare/bin/python" "$root/tests/helpers/pages.py" "$root/docs/tutorials/torch_layer.md"
"$work/bare/bin/mmseg-invattn" --version
# a subcommand that needs more says so
status=0; "$work/bare/bin/mmseg-invattn" train some_config > "$work/said" 2>&1 || status=$?
cat "$work/said"
test "$status" = 2 && grep -q 'is not installed' "$work/said" && ! grep -q Traceback "$work/said"
"$work/bare/bin/pip" install --quiet -c "$root/requirements/onedl.txt" "$wheel[export]"
"$work/bare/bin/python" "$root/tests/packaging/layers_alone.py" onnx
rm -rf "$work/bare"

say 'with MMSegmentation'
"$python" -m venv "$work/full"
"$work/full/bin/pip" install --quiet -c "$root/requirements/onedl.txt" "$wheel[onedl]"
PATH="$work/full/bin:$PATH"
"$work/full/bin/python" -m mmseg_invattn.doctor
mmseg-invattn demo --iters 4 > "$work/demo.log" 2>&1 || { cat "$work/demo.log"; exit 1; }
tail -n 25 "$work/demo.log"
config=demo/invnl_plainconv_1xb8-1k_context-shapes-48x96.py
mmseg-invattn train "$config" --work-dir trained --cfg-options train_cfg.max_iters=4 train_cfg.val_interval=4 \
    > "$work/train.log" 2>&1 || { cat "$work/train.log"; exit 1; }
test -f trained/iter_4.pth
mmseg-invattn test "$config" trained/iter_4.pth --work-dir tested > "$work/test.log" 2>&1 \
    || { cat "$work/test.log"; exit 1; }
grep mIoU "$work/test.log"
say 'the wheel works'
