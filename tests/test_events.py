from orchestrator.causes import Cause, End, State
from orchestrator.events import began, ended, scored
from orchestrator.trial import Assignment


def trial(*causes):
    return Assignment("cnn", "search", 3, {"train": {"steps": 1100}}, {}, 5, causes=list(causes))


def test_a_trial_that_begins_or_goes_on():
    assert began(trial(), 0, promoted=False) == "cnn-search-3 started"
    assert began(trial(Cause.KILLED), 1200, promoted=False) == "cnn-search-3 goes on from step 1,200"
    assert began(trial(), 200, promoted=True) == "cnn-search-3 promoted: goes on from step 200"
    assert began(trial(Cause.DRIVER_ENDED), 200, promoted=True) == "cnn-search-3 goes on from step 200"


def test_how_a_trial_ended_with_its_scores_steps_and_time():
    scores = scored(["fd_lite0", "seconds"], [41.5678, 7.0])
    assert ended(trial(), End(State.COMPLETED), 1100, 75.0, scores) == (
        "cnn-search-3 completed: fd_lite0 41.57, seconds 7, 1,100 steps, 1:15"
    )
    assert ended(trial(), End(State.PRUNED), 200, 7.0, {}) == "cnn-search-3 pruned: step 200 of 1,100, 0:07"
    diverged = End(State.DIVERGED, Cause.NOT_FINITE, "the loss is nan\x1b[2J")
    assert ended(trial(), diverged, 200, 7.0, {}, log="log.txt") == (
        "cnn-search-3 diverged (not finite: the loss is nan [2J): step 200 of 1,100, 0:07"  # no control characters
    )


def test_a_failure_names_its_log_and_one_that_is_tried_again_says_so():
    killed = End(State.FAILED, Cause.KILLED)
    assert ended(trial(), killed, 200, 7.0, {}, again=True, log="log.txt") == (
        "cnn-search-3 was cut off (process killed): step 200 of 1,100, 0:07; it is tried again"
    )
    assert ended(trial(), End(State.FAILED, "KeyError", "'lr'"), 0, 7.0, {}, log="log.txt") == (
        "cnn-search-3 failed (KeyError: 'lr'): step 0 of 1,100, 0:07  log: log.txt"
    )
