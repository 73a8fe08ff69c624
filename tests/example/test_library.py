import pytest

from example_app.answers import answer
from example_app.library import bundled_text, bundled_texts


def test_the_texts_are_of_all_lengths_the_shortest_first():
    shortest, short, middle, long = (bundled.pages for bundled in bundled_texts())
    assert shortest <= 2
    assert short <= 6
    assert 8 <= middle <= 20
    assert long >= 100


@pytest.mark.parametrize("bundled", bundled_texts(), ids=lambda bundled: bundled.name)
def test_each_text_says_what_it_is_and_that_it_is_free(bundled):
    assert bundled.title
    assert bundled.author
    assert bundled.year.isdigit()
    assert bundled.source.endswith("Public domain.")
    assert "Source:" not in bundled.text


@pytest.mark.parametrize("bundled", bundled_texts(), ids=lambda bundled: bundled.name)
def test_each_text_answers_the_question_that_it_comes_with(bundled):
    assert answer(bundled.text, bundled.question).sentences


def test_an_unknown_name_is_no_text():
    assert bundled_text("../secret_key") is None
