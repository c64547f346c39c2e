import pytest
from sweep_files import SMALL


def changed(search, **replaced):
    text = SMALL.replace("steps: 7", "steps: 70").replace("search: {trials: 3}", f"search: {search}")
    text = text.replace("steps: 13", "steps: 130")
    for old, new in replaced.items():
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("{objective: [{metric: fd_lite0}, {metric: loss}], pruner: median}", "search.pruner: saw 'median' with 2"),
        ("{objective: [{metric: fd_lite0}, {metric: loss}], sampler: cmaes}", "search.sampler: saw 'cmaes' with 2"),
        ("{trials: 3, objective: [{metric: loss}, {metric: loss}]}", "search.objective: saw [{'metric': 'loss', "),
        ("{trials: 3, objective: []}", "search.objective: saw []"),
        ("{trials: 3, sampler: nsga3}", "search.sampler: saw 'nsga3' with one objective"),
        ("{trials: 3, sampler: cmaes}", "search.sampler: saw 'cmaes', which searches ranges, of which arm one"),
        ("{trials: 3, sampler: random, from: runs/x}", "search.from: saw 'runs/x', but random learns nothing"),
        ("{pruner: {name: asha, min_resource: 70}}", "search.pruner: saw asha, which decides nothing before"),
        ("{pruner: {name: median, n_warmup_steps: 70}}", "search.pruner: saw median, which decides nothing"),
        ("{pruner: {name: patient, patience: 1, wrapped_pruner: {name: asha, min_resource: 99}}}", "saw asha"),
        ("{pruner: {name: hyperband, min_resource: 9, max_resource: 5}}", "saw max_resource 5, expected"),
        ("{pruner: {name: wilcoxon, p_threshold: 0.0001}}", "whose test needs more than 14 evaluations"),
        ("{trials: 3, enqueue: {oen: [{}]}}", "search.enqueue.oen: names no arm; did you mean 'one'?"),
        ("{trials: 3, enqueue: {one: [{optimizer.lr: 1}]}}", "search.enqueue.one[0]: optimizer.lr: saw 1, expected"),
        ("{trials: 3, enqueue: {one: [{optimizer.lr: x}]}}", "search.enqueue.one[0]: optimizer.lr: saw 'x', expected"),
        ("{trials: 3, enqueue: {one: [{loss.kappa: 1}]}}", "search.enqueue.one[0]: saw loss.kappa, expected only"),
        ("{trials: 1, enqueue: {one: [{}, {}]}}", "search.enqueue.one: saw 2 configurations, expected at most"),
        ("{trials: 3, enqueue: {one: 5}}", "search.enqueue.one: saw 5, expected a list"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(mistakes, search, message):
    lines = mistakes(changed(search).replace("top: 2", "top: 1"))
    assert any(message in line for line in lines), lines
    assert all(line.startswith("s.yaml:") for line in lines)


def test_gpu_hours_need_gpus(mistakes):
    (line,) = mistakes(changed("{trials: 3}") + "budget: {gpu_hours: 5}\n")
    assert "budget.gpu_hours: saw 5, but resources.gpu is 0" in line


@pytest.mark.parametrize(
    "search",
    [
        "{trials: 3, objective: [{metric: fd_lite0}, {metric: is_lite0_mean}], sampler: nsga3}",
        "{pruner: hyperband}",
        "{pruner: {name: patient, patience: 2, wrapped_pruner: asha}, min_arrivals: 7}",
        "{pruner: wilcoxon}",
        "{trials: 3, enqueue: {two: [{optimizer.name: adam, optimizer.beta1: 0.9}, {}]}}",
        "{trials: 3, sampler: {name: tpe, group: true}, from: runs/x}",
    ],
)
def test_what_goes_together_is_taken(load, search):
    assert load(changed(search)).name == "small"
