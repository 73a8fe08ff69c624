import time

import pytest

from example_app.sentences import split_sentences


@pytest.mark.parametrize(
    ("paragraph", "sentences"),
    [
        ("Mr. Bennet went home. Mrs. Long stayed.", ["Mr. Bennet went home.", "Mrs. Long stayed."]),
        ("It cost 3.14 dollars. He paid.", ["It cost 3.14 dollars.", "He paid."]),
        ("See Fig. 3 for it. Then go on.", ["See Fig. 3 for it.", "Then go on."]),
        ("J. R. R. Tolkien wrote it. We read it.", ["J. R. R. Tolkien wrote it.", "We read it."]),
        ("They live in the U.S. The house is old.", ["They live in the U.S.", "The house is old."]),
        ("The U.S. Supreme Court sat.", ["The U.S. Supreme Court sat."]),
        ("He said no. Then he left.", ["He said no.", "Then he left."]),
        ("At 5 p.m. we ate, e.g. bread, etc. and slept.", ["At 5 p.m. we ate, e.g. bread, etc. and slept."]),
    ],
)
def test_a_sentence_does_not_end_at_an_abbreviation_or_in_a_number(paragraph, sentences):
    assert split_sentences(paragraph) == sentences


@pytest.mark.parametrize(
    ("paragraph", "sentences"),
    [
        ("“Stop!” she cried. He stopped.", ["“Stop!” she cried.", "He stopped."]),
        ('"Who is it?" asked Tom. "It is I."', ['"Who is it?" asked Tom.', '"It is I."']),
        ("He said: “It is late.” They went.", ["He said: “It is late.”", "They went."]),
        ("(It was late.) They went.", ["(It was late.)", "They went."]),
    ],
)
def test_a_quotation_keeps_its_closing_mark_and_its_speaker(paragraph, sentences):
    assert split_sentences(paragraph) == sentences


@pytest.mark.parametrize(
    ("paragraph", "sentences"),
    [
        (
            "Dhr. De Vries komt o.a. uit Delft. Hij woont er bijv. graag!",
            ["Dhr. De Vries komt o.a. uit Delft.", "Hij woont er bijv. graag!"],
        ),
        (
            "В 1869 г. вышел роман. А. С. Пушкин его не читал, т.е. не мог.",
            ["В 1869 г. вышел роман.", "А. С. Пушкин его не читал, т.е. не мог."],
        ),
        ("我来了。你好吗？很好！", ["我来了。", "你好吗？", "很好！"]),
        ("¿Qué hora es? No sé.", ["¿Qué hora es?", "No sé."]),
    ],
)
def test_other_languages_are_split_as_well(paragraph, sentences):
    assert split_sentences(paragraph) == sentences


def test_a_text_without_an_end_mark_is_one_sentence():
    assert split_sentences("no capital and no full stop") == ["no capital and no full stop"]


def test_white_space_alone_holds_no_sentence():
    assert split_sentences(" \n\t ") == []


def test_line_breaks_do_not_end_a_sentence():
    assert split_sentences("a line\nthat goes on\nto the end.") == ["a line that goes on to the end."]


def test_an_endless_sentence_is_cut_between_its_clauses():
    clause = "word " * 39 + "end;"
    assert [len(sentence.split()) for sentence in split_sentences(" ".join([clause] * 4))] == [80, 80]


def test_endless_lines_without_any_mark_are_cut_at_their_breaks():
    line = "seven words stand in this one line"
    assert all(
        sentence.startswith("seven") and sentence.endswith("line")
        for sentence in split_sentences("\n".join([line] * 40))
    )


def test_an_endless_word_is_cut_as_well():
    assert max(len(sentence) for sentence in split_sentences("x" * 5000)) <= 1200


def test_nothing_is_lost_and_nothing_is_added():
    paragraph = "Dr. Who? “No—it is late; very late,” she said. 3.5 km… Then (at last!) home. " * 50
    assert "".join("".join(split_sentences(paragraph)).split()) == "".join(paragraph.split())


@pytest.mark.parametrize(
    "hostile", ["!" * 300_000, ". " * 150_000, "a." * 150_000, '."' * 150_000, "\n" * 300_000, "— " * 150_000]
)
def test_no_text_takes_long_to_split(hostile):
    began = time.perf_counter()
    split_sentences(hostile)
    assert time.perf_counter() - began < 5
