"""The benchmark: it runs, it measures what it says, and its table and JSON hold what it measured."""

import io
import json
import os
import sys
import time
from contextlib import redirect_stdout
from unittest import mock

import pytest
import torch
from helpers.checkout import ROOT

from mmseg_invattn.cli import benchmark as tool
from mmseg_invattn.experiments.benchmark import forms, gpu, inverse, kernels, models, stacks
from mmseg_invattn.experiments.benchmark.growth import grow
from mmseg_invattn.experiments.benchmark.memory import Side, available, measure
from mmseg_invattn.experiments.benchmark.report import Line, Report, compared
from mmseg_invattn.experiments.benchmark.session import Session
from mmseg_invattn.experiments.benchmark.timing import alone, interleave
from mmseg_invattn.layers import CertifiedAttention2d

MIB = 2**20
DTYPES = ('float32', 'bfloat16')
GRADIENTS = 'gradient off against what bfloat16 does'
DEMO = [str(ROOT / f'configs/demo/{name}_plainconv_1xb8-1k_context-shapes-48x96.py') for name in ('nonlocal', 'invnl')]


def no_wait():
    pass


def allocating(megabytes: int):
    """A step that allocates a given amount of memory and frees it."""

    def step():
        torch.ones(megabytes * MIB // 4).sum()

    return step


def fatal(deadly: bool):
    return (lambda: os.kill(os.getpid(), 9)) if deadly else no_wait


def test_sides_take_turns_after_a_warm_up():
    calls = []
    times = interleave(lambda: calls.append('A'), lambda: calls.append('B'), 3, no_wait)
    assert ''.join(calls) == 'AB' + 'AB' + 'BA' + 'AB'
    assert len(times.ours) == len(times.peer) == 3
    calls.clear()
    assert len(alone(lambda: calls.append('A'), 4, no_wait)) == 4 and len(calls) == 5


def test_ratio_of_a_known_pair():
    times = interleave(lambda: time.sleep(0.02), lambda: time.sleep(0.08), 5, no_wait)
    quantity = compared('time', 's', *times, 0.5)
    assert quantity.ratio == pytest.approx(0.25, rel=0.4) and quantity.met
    assert quantity.quartiles[0] <= quantity.ratio <= quantity.quartiles[1]
    assert compared('time', 's', *times, 0.05).met is False


def test_worst_and_median_of_paired_ratios():
    ours, peer = [1.0, 2.0, 9.0], [1.0, 4.0, 3.0]
    assert compared('x', '', ours, peer).ratio == 1.0 and compared('x', '', ours, peer, worst=True).ratio == 3.0
    assert compared('x', '', ours, peer).quartiles == (0.75, 2.0)
    assert compared('x', '', [2.0], [4.0]).quartiles == (0.5, 0.5)


@pytest.mark.parametrize('before', [0, 400])
def test_memory_of_a_known_allocation(before):
    """Also where the warm-up took more than what is measured."""
    usage = measure(Side(allocating, dict(megabytes=200), dict(megabytes=before)), 'cpu')
    assert usage.memory == pytest.approx(200 * MIB, rel=0.1) and usage.seconds > 0
    # this process has held far more by now, which the measurement must not see
    torch.ones(300 * MIB // 4).sum()
    usage = measure(Side(allocating, dict(megabytes=20), {}), 'cpu')
    assert usage.memory == pytest.approx(20 * MIB, rel=0.1)


def test_a_killed_process_is_an_error_and_not_a_measurement():
    with pytest.raises(MemoryError, match='the process that ran fatal .* was killed: choose a smaller size'):
        measure(Side(fatal, dict(deadly=True), dict(deadly=False)), 'cpu')


def test_growth_stops_where_the_next_step_would_not_fit():
    lines = []
    side = Side(allocating, {}, dict(megabytes=1))
    few = available('cpu') // MIB // 400
    grow(Session(lines.append, repeats=1), 'known', side, 'megabytes', [10, 40], [10, 40], sizes={}, memory_limit=4.5)
    assert lines[0].quantities[1].ratio == pytest.approx(4, rel=0.1) and lines[0].quantities[1].met
    grow(Session(lines.append, repeats=1), 'known', side, 'megabytes', [few, 4000 * few], [1, 400], sizes={})
    assert len(lines) == 2 and lines[1].quantities == [] and 'not run' in lines[1].note


def test_peers_compute_the_same():
    """The paper's concatenation is the project's ``elu_concatenation_attention`` up to roles and the factor 1.5."""
    from mmseg_invattn.ops.attention import elu_concatenation_attention

    recorded = []

    def record(function, *inputs):
        recorded.append((function, inputs))

    original, kernels.backward_step = kernels.backward_step, record
    try:
        kernels.paper_concatenation(32, 'float32', 'cpu')
    finally:
        kernels.backward_step = original
    ((function, (q, k, v, w)),) = recorded
    of_query, of_key = w.double().chunk(2)
    # sums over the pixel of q: it plays the keys' part
    expected = elu_concatenation_attention(k.double() @ of_key[:, None], q.double() @ of_query[:, None], v.double())
    given = function(q.double(), k.double(), v.double(), w.double())
    torch.testing.assert_close(given.mT[:, None] * 1.5, expected)


@pytest.mark.parametrize('chain', stacks.CHAINS)
def test_chains_of_couplings_compute_the_same(chain):
    if chain == 'MemCNN':
        pytest.importorskip('memcnn')
    found = []
    for name in ('stored', chain):
        torch.manual_seed(0)
        module = stacks.CHAINS[name]([stacks.branch(2) for _ in range(4)]).double()
        x = torch.linspace(-1, 1, 144, dtype=torch.float64).view(1, 4, 6, 6).requires_grad_()
        y = module(x)
        y.square().sum().backward()
        found.append((y.detach(), x.grad, sum(p.grad.square().sum() for p in module.parameters())))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)


def test_plain_iteration_is_counted_as_the_solver_is():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3, 3)
    block = CertifiedAttention2d(4)
    block(x)
    case = inverse.solved(block, x)
    torch.testing.assert_close(case.solution.float(), x, rtol=0, atol=1e-5)
    count = inverse.plain_evaluations(case, case.error(inverse.plain(block, case.y, 3)))
    assert (count <= 4).all() and (count >= 2).all()
    assert (inverse.plain_evaluations(case, case.error(case.y)) == 1).all()
    assert (inverse.plain_evaluations(case, torch.zeros(2), most=5) == 5).all()


def test_ascent_finds_a_harder_block():
    torch.manual_seed(0)
    start, end = (inverse.hardest('embedded_gaussian', 4, (2, 2), steps) for steps in (1, 30))
    assert end[1] > 1.5 * start[1]
    local = float(end[0].block.local_lipschitz(end[0].solution.float()))
    assert 0.9 * end[1] <= local <= end[0].block.lipschitz_bound()


def test_one_config_is_measured_without_a_peer():
    lines = []
    models.run(Session(lines.append, configs=(DEMO[1],), crop=(16, 16), batch=2, repeats=1))
    assert [line.what.split(',')[0] for line in lines] == ['training step', 'inference']
    assert all(q.ours > 0 and q.ratio is None for line in lines for q in line.quantities)


def test_line_without_a_measurement_is_shown(tmp_path):
    report = Report(tmp_path, 'cpu', 'test')
    report.add(Line('growth', 'itself', dict(N='1 to 4'), note='not run: no room'))
    assert '| growth | itself | N 1 to 4; not run: no room | - |' in (tmp_path / 'benchmark.md').read_text()


PARTS = {
    'tests': ['tests of a GPU'],
    'kernels': ['concatenation', 'concatenation, growth', 'softmax', 'l2', 'dot_product'],
    'blocks': ['embedded_gaussian, form none', 'embedded_gaussian, form none, growth', 'certified block'],
    'inverse': [
        'inverse, random weights',
        'training steps',
        'steepest embedded_gaussian block',
        'steepest concatenation block',
    ],
    'couplings': ['couplings, memory-free'],
    'memory': ['coupling blocks, memory-free', 'certified blocks, memory-free'],
    'models': ['training step', "training step, invnl_plainconv_1xb8-1k_context-shapes-48x96, precision='autocast'"],
    'forms': ['certified, training step', 'conditional, inference', 'coupling, inverse with its bound'],
    'growth': [f'certified block, {mode}, growth' for mode in ('gaussian', 'dot_product', 'concatenation', 'l2')],
}


@pytest.fixture(scope='module')
def quick(tmp_path_factory):
    """What one run of every part gave: exit status, folder and what it printed."""
    folder = tmp_path_factory.mktemp('quick')
    (folder / 'test_nothing.py').write_text('def test_nothing():\n    pass\n')
    line = ['--gpu', '--what', 'all', '--quick', '--repeats', '1', '--device', 'cpu', '--crop', '16', '32']
    printed = io.StringIO()
    tiny = (((8, (4, 4), 2), 1),)  # quick forms are of sizes that are measured
    with mock.patch.object(gpu, 'TESTS', folder), mock.patch.object(forms, 'QUICK', tiny), redirect_stdout(printed):
        status = tool.main([*line, '--out', str(folder / 'out'), '--configs', *DEMO])
    return status, folder / 'out', printed.getvalue()


def test_every_part_is_in_the_tables(quick):
    status, folder, printed = quick
    result, text = json.loads((folder / 'benchmark.json').read_text()), (folder / 'benchmark.md').read_text()
    assert not status, text
    assert result['torch'] == torch.__version__ and result['threads'] >= 1 and {'numpy', 'python', 'cpu'} <= set(result)
    for what, names in PARTS.items():
        for name in names:
            assert any(name in line['what'] for line in result['lines']), (what, name)
            assert name in text and name in printed


def test_every_line_has_its_numbers(quick):
    lines = json.loads((quick[1] / 'benchmark.json').read_text())['lines']
    assert lines[0]['note'].startswith('1 passed') and lines[0]['quantities'][0]['ours'] > 0
    for line in lines[1:]:
        assert line['sizes'] and (line['quantities'] or 'pip install' in line['note'])
        for quantity in line['quantities']:
            # the gradients of couplings may agree to the last bit
            assert quantity['peer'] > 0 and (quantity['ours'] > 0 or quantity['name'] == GRADIENTS)
            assert quantity['ratio'] >= 0 and 0 <= quantity['quartiles'][0] <= quantity['quartiles'][1]
            assert (quantity['met'] is None) == (quantity['limit'] is None)
        names = {quantity['name'] for quantity in line['quantities']}
        assert not names or names & {'time', 'gradient off against what is allowed', GRADIENTS}


def test_both_precisions_are_measured_where_they_differ(quick):
    lines = json.loads((quick[1] / 'benchmark.json').read_text())['lines']
    by_dtype = {dtype: {line['what'] for line in lines if line['sizes'].get('dtype') == dtype} for dtype in DTYPES}
    only = {dtype: what - by_dtype[other] for dtype, other in (DTYPES, DTYPES[::-1]) for what in [by_dtype[dtype]]}
    # the paper's evaluation is of float32, and so are couplings; a head follows autocast where there is one
    assert only['float32'] == {'6 couplings, memory-free', '4 couplings, memory-free'} | (
        {'concatenation'} & only['float32']
    )
    assert {what.split(', ')[-1] for what in only['bfloat16']} == {"precision='autocast'"}
    assert len(only['bfloat16']) == 2


def test_only_what_is_asked_for_runs(tmp_path, monkeypatch):
    ran = []
    parts = {name: lambda session, name=name: ran.append(name) for name in tool.PARTS}
    monkeypatch.setattr(tool, 'measurements', lambda: parts)
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', '--what', 'growth', 'blocks', '--out', str(tmp_path)])
    tool.main()
    assert ran == ['blocks', 'growth']


def test_options_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match='--repeats=0 must be a positive number of rounds'):
        tool.parse_args(['--repeats', '0'])
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match='--device=cuda:0, but torch finds no GPU'):
            tool.main(['--device', 'cuda:0'])
