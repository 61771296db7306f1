import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import LABELS, falling

from anneal.allocation import Problem, Supply
from anneal.allocation.purchase import fill, whole
from anneal.errors import PlanError


def law(m):
    return falling(np.full(m, 0.4), np.full(m, 2e4))


@st.composite
def questions(draw):
    m = draw(st.integers(1, 6))
    axis = draw(st.sampled_from(["tokens", "usd", "flops"]))
    supplies = tuple(
        Supply(
            LABELS[i],
            available=draw(st.integers(1, 10**7)),
            max_epochs=draw(st.floats(1.0, 16.0)),
            usd_fixed=draw(st.sampled_from([0.0, 0.3, 5.0])),
            usd_per_token=draw(st.sampled_from([0.0, 1e-6])),
            flops_fixed=draw(st.sampled_from([0.0, 1e12])),
            flops_per_token=draw(st.sampled_from([0.0, 3e6])),
        )
        for i in range(m)
    )
    budget = {
        "tokens": draw(st.integers(1, 10**8)),
        "usd": draw(st.floats(0.5, 100.0)),
        "flops": draw(st.floats(1e12, 1e15)),
    }[axis]
    problem = Problem(
        supplies,
        law(m),
        budget=budget,
        noise=0.01,
        axis=axis,
        replay=draw(st.sampled_from([0.0, 0.25, 0.7])),
        usd_per_trained=1e-6,
        flops_per_trained=6e6,
    )
    weights = st.lists(st.floats(0.0, 1.0), min_size=m, max_size=m)
    return problem, np.array(draw(weights.filter(lambda w: sum(w) > 1e-3)))


@given(questions())
@settings(max_examples=150, deadline=None)
def test_a_purchase_keeps_every_cap_and_the_budget_and_is_as_large_as_they_allow(question):
    problem, direction = question
    tokens, possible = fill(problem, direction[None, :])
    if not possible[0]:
        assert problem.axis != "tokens"
        one_token = direction[None, :] / direction.sum()
        assert problem.spent(one_token)[0] > problem.budget * (1 - 1e-6)
        return
    bought = whole(problem, tokens[0])
    assert (bought <= problem.caps).all()
    assert (bought[direction == 0] == 0).all()
    assert problem.spent(bought[None, :].astype(float))[0] <= problem.budget * (1 + 1e-9)
    capped = tokens[0] >= problem.caps * (1 - 1e-9)
    full = problem.spent(tokens)[0] >= problem.budget * (1 - 1e-6)
    assert full or capped[tokens[0] > 0].all()
    if problem.axis == "tokens" and full:
        assert bought.sum() == int(problem.budget)
    assert np.abs(bought - tokens[0]).max() <= 1 + len(problem.supplies)


def test_the_price_of_a_purchase_by_hand():
    supply = Supply("a", available=100, max_epochs=4.0, usd_fixed=5.0, usd_per_token=0.01)
    free = Supply("b", available=1000)
    problem = Problem(
        (supply, free), law(2), budget=100, noise=0.01, replay=0.5, usd_per_trained=0.001
    )
    # 250 tokens of a: fixed 5, 100 unique at 0.01; trained (250 + 50) / (1 - 0.5) at 0.001
    assert problem.spent(np.array([[250.0, 50.0]]), "usd")[0] == pytest.approx(5 + 1 + 0.6)
    assert problem.spent(np.array([[0.0, 50.0]]), "usd")[0] == pytest.approx(0.1)
    assert problem.spent(np.array([[250.0, 50.0]]), "tokens")[0] == 300


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"supplies": ()}, "distinct names"),
        ({"supplies": (Supply("a", 5), Supply("a", 6))}, "distinct names"),
        ({"budget": float("nan")}, "budget"),
        ({"noise": 0.0}, "noise floor"),
        ({"replay": 1.0}, "replay share"),
        ({"supplies": (Supply("a", 0),)}, "`a`: 0 tokens"),
        ({"axis": "usd"}, "costs none"),
    ],
)
def test_a_question_without_an_answer_is_refused(change, words):
    with pytest.raises(PlanError, match=words):
        Problem(
            **{"supplies": (Supply("a", 5),), "target": law(1), "budget": 9, "noise": 0.01} | change
        )
