"""Statistics of a comparison: intervals of pairs, verdicts, and the sentences of the report."""

import numpy as np
import pytest
import torch
from helpers.comparison_case import IMAGES, made_up_counts, made_up_runs, made_up_speed
from mmseg.evaluation import IoUMetric
from scipy.stats import ttest_rel

from mmseg_invattn.experiments.compare.charts import _far, differences
from mmseg_invattn.experiments.compare.findings import findings, is_ahead_of_all
from mmseg_invattn.experiments.compare.metric import areas
from mmseg_invattn.experiments.compare.report import markdown
from mmseg_invattn.experiments.compare.statistics import (
    Areas,
    paired,
    scatter_of_images,
    scores,
    spread,
    with_other_images,
)
from mmseg_invattn.experiments.compare.summary import summarise
from mmseg_invattn.experiments.compare.verdicts import control_of, difference_shown, leader_of, less_worse_than


def test_scores_agree_with_mmsegmentation():
    """150 classes, some of them absent, and pixels without a label."""
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 140, (3, 40, 50)), rng.integers(0, 145, (3, 40, 50))
    predictions[:, :20] = labels[:, :20]
    labels[:, 5] = 255
    counts = np.stack([areas(p, t, 150, 255) for p, t in zip(predictions, labels, strict=True)])
    theirs = [
        IoUMetric.intersect_and_union(torch.from_numpy(p), torch.from_numpy(t), 150, 255)
        for p, t in zip(predictions, labels, strict=True)
    ]
    expected = IoUMetric.total_area_to_metrics(*map(sum, zip(*theirs, strict=True)), metrics=['mIoU'])
    found = scores(Areas(counts).total())
    np.testing.assert_allclose(found.iou, 100 * expected['IoU'], rtol=1e-5)
    assert found.aacc == pytest.approx(100 * expected['aAcc'], rel=1e-6)
    assert found.miou == pytest.approx(100 * np.nanmean(expected['IoU']), rel=1e-6)
    assert np.isnan(found.iou[145:]).all() and not np.isnan(found.iou[:140]).any()


def test_images_drawn_once_each_are_the_split():
    counts = made_up_counts(0, 0.8)
    np.testing.assert_array_equal(Areas(counts).drawn(np.ones((2, IMAGES))), [counts.sum(0)] * 2)
    picked = np.eye(IMAGES)[[3]] * 2
    np.testing.assert_array_equal(Areas(counts).drawn(picked)[0], 2 * counts[3])


def test_one_seed_has_no_interval():
    found = paired({0: 61.0}, {0: 58.0})
    assert (found.mean, found.low, found.high, found.detectable) == (3.0, None, None, None)
    assert difference_shown(found._asdict()) == less_worse_than(found._asdict(), 0.5) == 'needs two seeds'
    assert with_other_images(dict(found._asdict(), scatter_of_images=0.1)) is None


def test_seeds_that_do_not_differ_have_no_interval():
    found = paired({0: 30.34, 1: 30.35}, {0: 30.24, 1: 30.25})  # equal up to rounding
    assert (found.deviation, found.low, found.detectable) == (0.0, None, None)
    assert difference_shown(found._asdict()) == 'seeds do not differ'


def test_interval_is_that_of_a_paired_t_test():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(60, 1, 8), rng.normal(60, 1, 9)  # the last seed has no partner
    found = paired(dict(enumerate(ours)), dict(enumerate(theirs)))
    low, high = ttest_rel(ours, theirs[:8]).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert sorted(found.per_seed) == list(range(8)) and found.mean == pytest.approx(np.mean(ours - theirs[:8]))
    assert paired({0: 1.0}, {1: 2.0}) is None


def test_interval_covers_and_the_visible_difference_is_seen():
    """In simulated comparisons of five seeds, 95 % of the intervals contain the truth, and 80 % show the difference."""
    rng = np.random.default_rng(1)
    deviation, seeds, trials = 0.4, 5, 4000
    draws = rng.normal(0, deviation, (trials, seeds))
    zero = dict.fromkeys(range(seeds), 0.0)
    found = [paired(dict(enumerate(row)), zero) for row in draws]
    assert np.mean([each.low <= 0 <= each.high for each in found]) == pytest.approx(0.95, abs=0.01)
    truth = np.median([each.detectable for each in found])
    moved = [paired(dict(enumerate(row + truth)), zero) for row in draws]
    assert np.mean([difference_shown(each._asdict()) == 'ahead' for each in moved]) == pytest.approx(0.8, abs=0.1)


def test_scatter_of_images():
    """For a score that is almost a mean over images it is that mean's; between a head and itself it is 0."""
    ours, theirs = {0: Areas(made_up_counts(0, 0.85))}, {0: Areas(made_up_counts(5, 0.8))}
    each = np.array([scores(a).miou - scores(b).miou for a, b in zip(ours[0].counts, theirs[0].counts, strict=True)])
    assert scatter_of_images(ours, theirs) / (each.std(ddof=1) / IMAGES**0.5) == pytest.approx(1, abs=0.25)
    assert scatter_of_images(ours, ours) == 0 and scatter_of_images(ours, {1: theirs[0]}) is None


def test_other_images_make_the_interval_wider():
    found = dict(mean=1.0, low=0.7, high=1.3, scatter_of_images=0.2)
    low, high = with_other_images(found)
    assert (low + high) / 2 == pytest.approx(1) and (high - low) / 2 == pytest.approx((0.3**2 + 0.392**2) ** 0.5)


@pytest.mark.parametrize(
    'low, high, shown, claim',
    [
        (0.1, 0.9, 'ahead', 'shown'),
        (-0.4, 0.9, 'no difference shown', 'shown'),
        (-0.5, 0.9, 'no difference shown', 'not shown'),
        (-0.9, 0.1, 'no difference shown', 'not shown'),
        (-0.4, -0.1, 'behind', 'shown'),
        (-0.9, -0.1, 'behind', 'not shown'),
        (-0.9, -0.6, 'behind', 'refuted'),
        (None, None, 'needs two seeds', 'needs two seeds'),
    ],
)
def test_verdicts(low, high, shown, claim):
    found = dict(low=low, high=high, deviation=None)
    assert difference_shown(found) == shown and less_worse_than(found, 0.5) == claim


def test_the_leader_is_ahead_only_where_the_interval_says_so():
    near = {0: 60.0, 1: 60.4, 2: 60.1}
    first = {seed: value + 0.1 * (seed - 0.5) for seed, value in near.items()}  # ahead in the mean
    far = {seed: value - 5 + 0.3 * seed for seed, value in near.items()}
    found = leader_of(dict(near=near, first=first, far=far, failed={}))
    assert found == dict(name='first', ahead=['far'], level=['near'])
    assert leader_of(dict(a={0: 60.0}, b={0: 50.0})) == dict(name='a', ahead=[], level=['b'])  # one seed
    assert leader_of(dict(a={})) is None


def test_the_control_is_the_head_without_attention():
    heads = [dict(name='nonlocal', kind='ordinary'), dict(name='fcn', kind='none'), dict(name='inv', kind='invertible')]
    miou = {'nonlocal': {0: 52.0, 1: 53.1}, 'fcn': {0: 50.0, 1: 51.0}, 'inv': {0: 70.0, 1: 70.0}}
    found = control_of(heads, miou, None)
    assert found['name'] == 'fcn' and list(found['gains']) == ['nonlocal']
    assert found['gains']['nonlocal']['mean'] == pytest.approx(2.05)
    assert control_of(heads, miou, 'inv')['gains']['nonlocal']['mean'] == pytest.approx(-17.45)
    assert control_of(heads[2:], miou, None) is None


# ------------------------------------------------------------------------------------------------------------- reports


def told(tmp_path, heads=3, seeds=(0, 1, 2), baseline=2, share=0.3, **arguments):
    """Results and sentences of a made-up comparison: fcn, head1 (invertible), head2 (ordinary), ..."""
    runs = made_up_runs(tmp_path, heads, seeds, share=share)
    names = list(dict.fromkeys(run.name for run in runs))
    results = summarise(runs, names[baseline], None, made_up_speed(runs), **arguments)
    return results, '\n'.join(findings(results))


def test_ordinary_attention_that_beats_the_control(tmp_path):
    results, text = told(tmp_path, margin=0.5)
    assert f'The control fcn has {results["heads"][0]["miou"]:.2f} mIoU' in text
    assert 'Ordinary attention (head2) differs from it by +' in text and 'it beats the control' in text
    assert 'less than 0.5 below that of head2. Result: ' in text and 'depending on the head' in text
    assert 'The 95 % interval tells how the difference would vary if the heads were trained again' in text
    assert '| head | mIoU | difference | 95 % interval | against head2 | less than 0.5 worse |' in markdown(results)


def test_ordinary_attention_that_does_not_beat_the_control(tmp_path):
    results, _ = told(tmp_path)
    gain = results['control']['gains']['head2_r18-d8_data']
    gain.update(low=-0.2, mean=0.1)
    text = '\n'.join(findings(results))
    assert 'it does not beat the control, so this comparison does not tell what attention gains' in text


def test_one_seed(tmp_path):
    results, text = told(tmp_path, heads=2, seeds=(0,), baseline=0)
    assert 'There is one seed. At least two are needed' in text
    assert 'Visible difference' not in text and 'At least two seeds are needed to show that it is ahead' in text
    assert not any(is_ahead_of_all(results, head) for head in results['heads'])
    assert '| needs two seeds | needs two seeds | - |' in markdown(results)


def test_a_comparison_without_a_control_says_so(tmp_path):
    runs = made_up_runs(tmp_path, 2, (0, 1))
    own = [run for run in runs if run.name.startswith('head1')]
    text = '\n'.join(findings(summarise(own, own[0].name, None, None)))
    assert 'There is no head without attention' in text


def test_only_a_head_ahead_of_all_is_marked(tmp_path):
    results, _ = told(tmp_path, heads=2, baseline=0)
    assert results['leader'] == dict(name='head1_r18-d8_data', ahead=['fcn_r18-d8_data'], level=[])
    assert [is_ahead_of_all(results, head) for head in results['heads']] == [False, True]
    results['leader'].update(ahead=[], level=['fcn_r18-d8_data'])
    assert not any(is_ahead_of_all(results, head) for head in results['heads'])
    assert 'is not shown to be ahead of fcn' in '\n'.join(findings(results))


def test_attention_that_is_still_the_identity_is_marked(tmp_path):
    results, text = told(tmp_path, share=2e-4)
    assert [head['identity_seeds'] for head in results['heads']] == [[], [0, 1, 2], [0, 1]]
    assert 'The attention of head1 is still the identity (seeds 0, 1, 2): it moves the median token by less' in text
    assert '2.0e-04 (identity)' in markdown(results)


def test_spread():
    assert spread([3.0]) == (3.0, None)
    assert spread([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))


def test_a_head_far_from_the_others_does_not_hide_them():
    """It is told as a number, and the axis shows the others."""

    def head(name: str, mean: float) -> dict:
        found = dict(mean=mean, low=mean - 0.2, high=mean + 0.2, per_seed={'0': mean - 0.1, '1': mean + 0.1})
        return dict(name=name, label=name, difference=found, runs=[])

    far, (left, right) = _far([head('a', 0.1), head('b', -0.3), head('control', -43.4)], 0.5)
    assert far == {'control'} and -0.7 < left < -0.5 and 0.3 < right < 0.5
    assert _far([head('a', 0.1), head('b', -1.3)], 0.5)[0] == set()
    assert _far([head('control', -43.4)], None)[0] == set()  # there is nothing that it hides
    drawn = differences([head('a', 0.1), head('better', 43.4)], 'nonlocal', 0.5)
    assert '+43.4 ▸' in drawn and '◂ -43.4' in differences([head('a', 0.1), head('b', -43.4)], 'nonlocal')
