import json

import pytest

from rlhf import charts
from rlhf.alarms import as_json, find_alarms
from rlhf.models import Metrics, RunKind, Sample, Status
from tests.rlhf.factories import RunFactory

pytestmark = pytest.mark.django_db

RAIN = [{"role": "user", "content": "Rain?"}]
SNOW = [{"role": "user", "content": "Snow?"}]


@pytest.fixture
def run():
    return RunFactory(kind=RunKind.PPO, status=Status.RUNNING)


def report(run, step, **values):
    return Metrics.objects.create(run=run, step=step, values=values)


def show(run, step, index=0, prompt=RAIN, text=""):
    return Sample.objects.create(run=run, step=step, index=index, prompt=prompt, completion=text)


# --- values ------------------------------------------------------------------------------------
def test_values_are_sorted_by_metric(run):
    report(run, 1, loss=0.7)
    report(run, 2, loss=0.5, entropy=2.0)

    assert charts.new_values(run) == {
        "attempt": 0,
        "is_active": True,
        "last_step": 2,
        "alarms": [],
        "series": {"loss": {"x": [1, 2], "y": [0.7, 0.5]}, "entropy": {"x": [2], "y": [2.0]}},
    }


def test_what_was_measured_before_training_is_step_0(run):
    report(run, 0, **{"eval/score": -0.5})

    assert charts.new_values(run)["series"] == {"eval/score": {"x": [0], "y": [-0.5]}}
    assert charts.new_values(run, after=0)["series"] == {}


def test_only_new_values_are_sent(run):
    report(run, 1, loss=0.7)
    report(run, 2, loss=0.5)

    assert charts.new_values(run, after=1)["series"] == {"loss": {"x": [2], "y": [0.5]}}
    assert charts.new_values(run, after=2)["series"] == {}
    assert charts.new_values(run, after=2)["last_step"] == 2


def test_value_that_is_not_finite_is_a_gap(run):
    report(run, 1, loss=None)

    assert charts.new_values(run)["series"] == {"loss": {"x": [1], "y": [None]}}


def test_of_a_long_run_every_nth_step_is_sent_and_the_last(run, monkeypatch):
    monkeypatch.setattr(charts, "MAX_POINTS", 4)
    for step in range(1, 12):
        report(run, step, loss=float(step))

    values = charts.new_values(run)

    assert values["series"]["loss"]["x"] == [3, 6, 9, 11]
    assert values["last_step"] == 11


def test_steps_with_an_alarm_are_sent_of_a_long_run_too(run, monkeypatch):
    monkeypatch.setattr(charts, "MAX_POINTS", 4)
    for step in range(1, 12):
        report(run, step, **{"kl/k1": 40.0 if step in (4, 5) else 1.0})
    run.alarms = as_json(find_alarms(run.metrics.values_list("step", "values")))

    assert charts.new_values(run)["series"]["kl/k1"]["x"] == [3, 4, 5, 6, 9, 11]


def test_table_has_the_newest_steps_first_and_a_column_per_metric(run):
    report(run, 1, loss=0.7)
    report(run, 2, loss=0.5, entropy=2.0)

    assert charts.table_of(run) == (["loss", "entropy"], [(2, [0.5, 2.0]), (1, [0.7, None])])


def test_every_metric_is_charted_once_with_a_sentence():
    for sections in charts.CHARTS.values():
        shown = [chart for section in sections for chart in section.charts]
        metrics = [metric for chart in shown for metric, _ in json.loads(chart.metrics)]

        assert len(metrics) == len(set(metrics))
        assert all(chart.explanation.endswith(".") for chart in shown)


def test_every_kind_of_run_has_its_charts():
    assert set(charts.CHARTS) == set(RunKind.values)


def test_score_is_charted_by_source_where_there_are_several():
    rewards = [{"kind": "length", "target": 80}, {"kind": "sentiment", "name": "mood"}]
    one = RunFactory(kind=RunKind.PPO, config={"reward_model": "/r"})
    three = RunFactory(kind=RunKind.PPO, config={"reward_model": "/r", "rewards": rewards})

    chart = charts.sections_of(three)[0].charts[1]

    assert charts.sections_of(one) == charts.CHARTS[RunKind.PPO]
    assert [series.metric for series in chart.series] == [
        "score/reward_model", "score/length", "score/mood",
    ]  # fmt: skip


def test_score_of_rules_alone_has_no_unit_and_no_reward_model_in_its_words(run):
    run.config = {"rewards": [{"kind": "length", "target": 80}]}

    first = charts.sections_of(run)[0].charts

    assert [chart.title for chart in first] == [
        chart.title for chart in charts.CHARTS[RunKind.PPO][0].charts
    ]
    assert "standard deviations" not in {chart.unit for chart in first}
    assert not any("reward model" in chart.explanation for chart in first)


def test_second_models_are_known_by_what_they_reported_at_the_start(run):
    report(run, 0, **{"memory_mib/reward_model": 530, "other": 1})
    report(run, 1, **{"score/mean": 0.5})

    assert charts.second_models(run) == [("reward_model", 530)]


# --- sample answers ----------------------------------------------------------------------------
def test_latest_answers_stand_beside_the_first_to_the_same_prompt(run):
    first = show(run, 1, 0, RAIN)
    show(run, 2, 0, RAIN)
    now, other = show(run, 3, 0, RAIN), show(run, 3, 1, SNOW)

    samples = charts.samples_of(run)

    assert (samples.step, samples.is_last) == (3, True)
    assert samples.answers == [(now, first), (other, None)]


def test_one_can_go_through_the_steps(run):
    for step in (2, 4, 6, 8):
        show(run, step)

    samples = charts.samples_of(run, 4)

    assert samples[:6] == (4, False, 2, 2, 6, 8)


def test_step_without_answers_gives_the_last(run):
    show(run, 2)

    assert charts.samples_of(run, 7)[:6] == (2, True, None, None, None, None)


def test_run_without_answers_has_none(run):
    assert charts.samples_of(run) == (0, True, None, None, None, None, [])


# --- the log -----------------------------------------------------------------------------------
def test_log_of_a_progress_bar_shows_where_it_got_to(tmp_path):
    path = tmp_path / "log.txt"
    path.write_bytes(b"start\nloading: 1%\rloading: 50%\rloading: 100%\r\nend\n")

    assert charts.log_tail(path) == "start\nloading: 100%\nend"


def test_log_is_read_from_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(charts, "LOG_BYTES", 12)
    path = tmp_path / "log.txt"
    path.write_text("first line\nsecond\nthird\n")

    assert charts.log_tail(path) == "third"


def test_missing_log_is_empty(tmp_path):
    assert charts.log_tail(tmp_path / "log.txt") == ""
