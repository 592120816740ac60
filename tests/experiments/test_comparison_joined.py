"""Results of several comparisons, joined to one."""

import copy
import json

import pytest
from helpers.comparison_case import OPTIONS, made_up_runs, made_up_speed

from mmseg_invattn.experiments.compare.facts import facts, warnings
from mmseg_invattn.experiments.compare.joined import joined
from mmseg_invattn.experiments.compare.report import markdown
from mmseg_invattn.experiments.compare.summary import summarise


@pytest.fixture
def parts(tmp_path):
    """Four heads in one comparison; the first two and the last two as comparisons of their own."""
    runs = made_up_runs(tmp_path, heads=4, seeds=(0, 1, 2))
    speed = made_up_speed(runs)
    whole = summarise(runs, runs[0].name, OPTIONS, speed, margin=0.5)
    first = summarise(runs[:6], runs[0].name, OPTIONS, speed, margin=0.5)
    second = summarise(runs[6:], runs[6].name, OPTIONS, speed)
    return runs, *(json.loads(json.dumps(results)) for results in (whole, first, second))


def test_the_parts_are_the_whole(parts):
    _, whole, first, second = parts
    second['places'][0]['device'] = 'another device'
    before = copy.deepcopy((first, second))
    found = joined([('a.json', first), ('b.json', second)])
    assert (first, second) == before
    whole['places'].append(second['places'][0])
    for head in whole['heads'][2:]:  # what is measured on one machine, or needs the pixel counts
        assert head['speed'] and head['difference']['scatter_of_images'] > 0
        head.update(speed={}, seconds_per_iteration=None)
        head['difference']['scatter_of_images'] = None
        for run in head['runs']:
            run['starts'][0]['place'] = 1
    assert found == whole
    assert dict(facts(found))['device'] == 'a device and another device'
    rows = [line for line in markdown(found).splitlines() if line.startswith('| head3 ')]
    difference = whole['heads'][3]['difference']
    assert f'| {difference["mean"]:+.2f} | {difference["low"]:+.2f} to {difference["high"]:+.2f} |' in rows[0]
    assert rows[0].split(' | ')[6] == '-' and whole['heads'][1]['difference']['scatter_of_images'] is not None


def test_seeds_may_be_in_several_files(tmp_path):
    """One seed a file, as the jobs of a cluster leave them; one head has its last seed in none."""
    runs = made_up_runs(tmp_path, heads=4, seeds=(0, 1, 2))
    parts = [summarise([run for run in runs if run.seed == seed], runs[0].name, OPTIONS, None) for seed in (2, 0, 1)]
    assert not any('attention' not in run for part in parts for head in part['heads'] for run in head['runs'])
    found = joined([(f'{number}.json', part) for number, part in enumerate(parts)], margin=0.5)
    whole = summarise(runs, runs[0].name, OPTIONS, None, margin=0.5)
    for head in whole['heads'][1:]:
        head['difference']['scatter_of_images'] = None
    assert found == whole
    assert 'Tested claim: the mIoU of a head is less than 0.5 below' in markdown(found)


def test_runs_without_their_measurements_cannot_become_one_head(tmp_path):
    runs = made_up_runs(tmp_path, heads=2, seeds=(0, 1))
    parts = [summarise([run for run in runs if run.seed == seed], runs[0].name, None, None) for seed in (0, 1)]
    del parts[1]['heads'][1]['runs'][0]['attention']
    with pytest.raises(ValueError, match=f'runs of {runs[2].name[:5]}.* have no attention, so its seeds cannot be'):
        joined([('0.json', parts[0]), ('1.json', parts[1])])


def test_one_head_is_the_same_in_all_files(tmp_path):
    runs = made_up_runs(tmp_path, heads=2, seeds=(0, 1))
    runs[3].cfg.model.decode_head.dropout_ratio = 0.5
    parts = [summarise([run for run in runs if run.seed == seed], runs[0].name, None, None) for seed in (0, 1)]
    with pytest.raises(ValueError, match='head1_r18-d8_data has another decode_head in another file: give'):
        joined([('0.json', parts[0]), ('1.json', parts[1])])


def test_a_file_in_which_all_runs_failed(tmp_path):
    runs = made_up_runs(tmp_path, heads=3, seeds=(0, 1))
    failed = summarise(runs[5:], runs[5].name, OPTIONS, None)
    assert failed['images'] == 0
    rest = summarise(runs[:5], runs[0].name, OPTIONS, None)
    whole = summarise(runs, runs[0].name, OPTIONS, None)
    whole['heads'][2]['difference']['scatter_of_images'] = None
    assert joined([('rest.json', rest), ('failed.json', failed)]) == whole
    found = joined([('failed.json', failed), ('rest.json', rest)])
    assert (found['images'], found['classes'], found['split']) == (12, whole['classes'], whole['split'])


def test_one_file_stays_as_it_is(parts):
    _, whole, first, _ = parts
    assert joined([('a.json', whole)]) == whole
    assert joined([('a.json', first)]) == first


def test_the_control_may_be_in_another_file(parts):
    _, whole, first, second = parts
    found = joined([('b.json', second), ('a.json', first)])
    assert found['control']['name'] == 'fcn_r18-d8_data' and found['control'] == whole['control']
    assert (found['baseline'], found['margin']) == (second['baseline'], None)
    baseline, head = found['heads'][0], found['heads'][3]
    pairs = [(ours['miou'], theirs['miou']) for ours, theirs in zip(head['runs'], baseline['runs'], strict=True)]
    assert pairs[2][1] is None  # the last seed of the baseline has failed
    assert head['difference']['mean'] == pytest.approx(sum(ours - theirs for ours, theirs in pairs[:2]) / 2)


def test_other_recipes_are_told(parts):
    runs, _, first, second = parts
    for run in runs[6:9]:  # those of the baseline of the second file
        run.cfg.merge_from_dict({'model.backbone': dict(depth=50), 'train_dataloader.batch_size': 8})
    second = json.loads(json.dumps(summarise(runs[6:], runs[6].name, {'train_cfg.max_iters': 100}, None)))
    found = joined([('a.json', first), ('b.json', second)])
    told = dict(facts(found))
    assert 'head2 in model.backbone, train_dataloader.batch_size' in told['configs']
    assert told['options'] == 'train_cfg.max_iters=200 (was 1000); train_cfg.max_iters=100 (was 1000)'
    names = f'{runs[6].name} and {runs[0].name}'
    assert any(f'not paired: {names} differ in train_dataloader.batch_size' in line for line in warnings(found))


def test_what_cannot_be_joined(parts):
    _, whole, first, second = parts
    with pytest.raises(
        ValueError, match='whole.json: fcn_r18-d8_data, seed 0 is in another of the files too; each run must'
    ):
        joined([('first.json', first), ('whole.json', whole)])
    with pytest.raises(ValueError, match='first.json: fcn_r18-d8_data, seed 0 is in another'):
        joined([('first.json', first), ('first.json', first)])
    second['split'] = '0' * 64
    with pytest.raises(ValueError, match='a.json and b.json: their heads were evaluated on different images'):
        joined([('a.json', first), ('b.json', second)])
    with pytest.raises(ValueError, match='b.json: this is not a results.json'):
        joined([('a.json', first), ('b.json', dict(device='a'))])
