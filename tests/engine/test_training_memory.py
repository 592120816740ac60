"""A training does not use more memory after a thousand iterations than after fifty."""

import json
import subprocess
import sys

import pytest
from helpers.runtime_case import tool_environment, write_case

SCRIPT = """
import gc, json, sys
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
import mmseg_invattn, mmseg
from mmseg_invattn.cli.main import main

memory = {}

@HOOKS.register_module()
class Weigh(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 in (50, 1000):
            gc.collect()
            pages = int(open('/proc/self/statm').read().split()[1])
            memory[runner.iter + 1] = pages * 4096 / 2**20

assert not main(sys.argv[1:])
print(json.dumps(memory))
"""
MORE = """
custom_hooks = [dict(type='Weigh', priority='VERY_LOW')]
del model['decode_head']['num_convs'], model['decode_head']['concat_input']
model['decode_head'].update(type='InvNLHead', attention=dict(form='certified'))
"""
OPTIONS = ('train_cfg.max_iters=1000', 'param_scheduler.0.end=1000', 'default_hooks.checkpoint.interval=500')


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_a_thousand_iterations_hold_no_more_than_fifty(tmp_path):
    config, script = write_case(tmp_path), tmp_path / 'weighed.py'
    script.write_text(SCRIPT)
    with open(config, 'a') as file:
        file.write(MORE)
    line = ['train', config, '--work-dir', tmp_path / 'work', '--cfg-options', *OPTIONS]
    run = subprocess.run(
        [sys.executable, script, *map(str, line)], env=tool_environment(), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    memory = json.loads(run.stdout.splitlines()[-1])
    assert memory['1000'] <= memory['50'] + 10, memory  # MB
