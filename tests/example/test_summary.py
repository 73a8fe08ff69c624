import random

import pytest

from example_app.library import bundled_texts
from example_app.sections import read_sections
from example_app.summary import summarise


def found(text):
    return [sentence.text for reading in summarise(text) for sentence in reading.found]


def test_a_text_of_one_sentence_is_its_own_summary():
    assert found("It rained.") == ["It rained."]


@pytest.mark.parametrize("text", ["", " \n\n\t", "… !!! —"])
def test_a_text_without_a_word_has_no_summary(text):
    assert list(summarise(text)) == []


def test_one_word_ten_thousand_times_is_told_once():
    assert len(found("word " * 10_000)) == 1


def test_function_words_alone_are_told_all_the_same():
    assert found("It is what it is. So be it.")


def test_text_without_punctuation_is_summarised():
    assert found("the cat sat on the mat and looked at the moon " * 200)


@pytest.mark.parametrize("bundled", bundled_texts(), ids=lambda bundled: bundled.name)
class TestOfABundledText:
    def test_every_sentence_is_a_sentence_of_the_text(self, bundled):
        sentences = {sentence.text for section in read_sections(bundled.text) for sentence in section.sentences}
        assert set(found(bundled.text)) <= sentences

    def test_sentences_are_told_in_the_order_of_the_text_and_once_each(self, bundled):
        numbers = [sentence.number for reading in summarise(bundled.text) for sentence in reading.found]
        assert numbers == sorted(set(numbers))

    def test_every_section_is_read_in_turn(self, bundled):
        readings = list(summarise(bundled.text))
        assert [reading.section.number for reading in readings] == list(range(1, readings[0].total + 1))

    def test_the_summary_is_found_on_the_way_not_at_the_end(self, bundled):
        readings = list(summarise(bundled.text))
        told = [sentence.number for reading in readings for sentence in reading.found]
        middle = readings[-1].section.sentences[-1].number / 2
        assert 0.3 <= sum(number <= middle for number in told) / len(told) <= 0.7

    def test_the_summary_is_much_shorter_than_the_text(self, bundled):
        told = sum(len(sentence.split()) for sentence in found(bundled.text))
        assert told < len(bundled.text.split()) * (0.4 if bundled.pages == 1 else 0.1)


def test_what_was_told_is_not_told_again():
    news = "The council of the town decided to build a new bridge over the river near the old mill."
    filler = "Many people came to the market, bought bread and cheese, and spoke of the weather at length."
    text = "\n\n".join([news, filler, news, filler] * 20)
    assert sorted(found(text)) == sorted([news, filler])


def test_what_many_sentences_are_about_is_preferred():
    text = (
        "The lighthouse guided ships through the dangerous strait every night. "
        "Ships in the strait depended upon the light of the lighthouse. "
        "Without the lighthouse, ships were wrecked in the strait in winter. "
        "My aunt prefers marmalade. "
        "The keeper of the lighthouse lit the lamp for the ships at dusk."
    )
    assert all("lighthouse" in sentence for sentence in found(text))


def test_half_a_megabyte_is_read_within_seconds(benchmark_seconds):
    words = random.Random(1).choices([f"word{n}" for n in range(5000)], k=75_000)
    sentences = [" ".join(words[at : at + 15]).capitalize() + "." for at in range(0, len(words), 15)]
    text = "\n\n".join(" ".join(sentences[at : at + 5]) for at in range(0, len(sentences), 5))
    assert len(text) > 500_000
    with benchmark_seconds(10):
        assert len(found(text)) > 50
