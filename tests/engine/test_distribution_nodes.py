"""Two nodes, simulated by two launchers on this machine that know each other by address, rank and port only."""

import json
import socket
import subprocess

import pytest
from helpers.checkout import ROOT
from helpers.runtime_case import tool_environment


def on_two_nodes(script, folder, *arguments):
    """Run a launch script on both nodes, one process each; their standard outputs and errors."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    nodes = []
    for rank in range(2):
        environment = tool_environment(NNODES='2', NODE_RANK=str(rank), MASTER_ADDR='127.0.0.1', PORT=str(port))
        nodes.append(
            subprocess.Popen(
                [ROOT / 'tools' / script, *map(str, arguments)],
                env=environment,
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        outputs = [node.communicate(timeout=500)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    for node, output in zip(nodes, outputs, strict=True):
        assert node.returncode == 0, output[-3000:]
    return outputs


@pytest.mark.slow
def test_two_nodes_train_and_evaluate(context_shapes, tmp_path):
    data = [f'{split}_dataloader.dataset.data_root={context_shapes}' for split in ('train', 'val', 'test')]
    # without SyncBN, which needs a GPU, every rank has batch statistics of its own, and a checkpoint those of rank 0
    data += ['model.decode_head.norm_cfg.type=GN', '+model.decode_head.norm_cfg.num_groups=4']
    config = ROOT / 'configs' / 'demo' / 'invnl_plainconv_1xb8-1k_context-shapes-48x96.py'
    options = (
        '--work-dir',
        tmp_path / 'work',
        '--cfg-options',
        *data,
        'train_cfg.max_iters=4',
        'train_cfg.val_interval=4',
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.interval=4',
        'train_dataloader.batch_size=4',
        'default_hooks.certificate.interval=2',
    )
    on_two_nodes('dist_train.sh', tmp_path, config, 1, *options)
    lines = [
        json.loads(line)
        for path in (tmp_path / 'work').glob('*/vis_data/scalars.json')
        for line in path.read_text().splitlines()
    ]
    assert [line['step'] for line in lines if 'loss' in line] == [1, 2, 3, 4]
    # rank 0 alone measures and logs
    bounds = [
        line['certificate/decode_head.attention/bound']
        for line in lines
        if 'certificate/decode_head.attention/bound' in line
    ]
    assert len(bounds) == 2 and all(0 < bound <= 0.9001 for bound in bounds)
    (trained,) = (line for line in lines if 'mIoU' in line)
    assert trained['certificate/inverse_error'] > 0

    on_two_nodes(
        'dist_test.sh',
        tmp_path,
        config,
        tmp_path / 'work' / 'iter_4.pth',
        1,
        '--work-dir',
        tmp_path / 'test',
        '--cfg-options',
        *data,
    )
    tested = json.loads(next((tmp_path / 'test').glob('*/*.json')).read_text())
    assert tested['mIoU'] == trained['mIoU'] and tested['aAcc'] == trained['aAcc']
