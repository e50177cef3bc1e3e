from collections import Counter

import pytest

from pipelines.evaluation.classes import choose_classes


def test_classes_take_turns():
    assert choose_classes("balanced", 7, 3, seed=0) == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("choice", ["balanced", "uniform", "data"])
def test_a_choice_does_not_depend_on_how_many_follow(choice):
    few, many = (choose_classes(choice, n, 4, seed=5, frequencies=[1, 2, 3, 4]) for n in (10, 100))
    assert many[:10] == few


def test_drawn_classes_are_as_frequent_as_they_should_be():
    uniform = Counter(choose_classes("uniform", 4000, 4, seed=0))
    assert all(900 < uniform[label] < 1100 for label in range(4))
    data = Counter(choose_classes("data", 4000, 4, seed=0, frequencies=[30, 0, 10, 60]))
    assert data[1] == 0
    assert [data[label] / 4000 for label in (0, 2, 3)] == pytest.approx([0.3, 0.1, 0.6], abs=0.03)
    assert choose_classes("uniform", 50, 4, seed=1) != choose_classes("uniform", 50, 4, seed=0)


def test_a_model_without_classes_has_none():
    assert choose_classes("uniform", 3, 0, seed=0) == [None] * 3
