import pytest

from example_app.library import bundled_text, bundled_texts


def test_the_texts_are_short_middle_and_long():
    short, middle, long = (bundled.pages for bundled in bundled_texts())
    assert short <= 2
    assert 8 <= middle <= 20
    assert long >= 100


@pytest.mark.parametrize("bundled", bundled_texts(), ids=lambda bundled: bundled.name)
def test_each_text_says_what_it_is_and_that_it_is_free(bundled):
    assert bundled.title
    assert bundled.author
    assert bundled.year.isdigit()
    assert bundled.source.endswith("Public domain.")
    assert "Source:" not in bundled.text


def test_an_unknown_name_is_no_text():
    assert bundled_text("../secret_key") is None
