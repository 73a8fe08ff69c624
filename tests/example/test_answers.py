import pytest

from example_app.answers import SILENT, answer
from example_app.library import bundled_text


def ask(name, *questions):
    """The answer to the last of the questions, asked one after the other."""
    text, history = bundled_text(name).text, []
    for question in questions:
        found = answer(text, question, history)
        history += [{"role": "user", "content": found.question}, {"role": "assistant", "content": found.text}]
    return found


@pytest.mark.parametrize(
    ("name", "question", "told"),
    [
        ("gettysburg-address", "What will the world remember?", "nor long remember what we say here"),
        ("constitution", "How old must the President be?", "thirty five Years"),
        ("constitution", "What is treason?", "levying War"),
        ("constitution", "How many states must ratify?", "nine States"),
        ("alice-in-wonderland", "What does the Queen shout?", "Off with"),
        ("alice-in-wonderland", "Who stole the tarts?", "The Knave of Hearts, he stole those tarts"),
        ("alice-in-wonderland", "Where did Alice fall?", "down a very deep well"),
    ],
)
def test_a_question_is_answered_in_the_words_of_the_text(name, question, told):
    assert told in ask(name, question).text


def test_an_answer_says_where_it_stands():
    (sentence,) = ask("constitution", "How is treason punished?").sentences
    assert sentence.heading == "Article III, Section 3"
    assert sentence.number > 90


def test_an_answer_has_at_most_three_sentences_in_the_order_of_the_text():
    numbers = [sentence.number for sentence in ask("alice-in-wonderland", "What does Alice say?").sentences]
    assert len(numbers) <= 3
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("question", ["What is the capital of France?", "Who won the football match?", "?", "xyzzy"])
def test_what_the_text_does_not_say_is_not_made_up(question):
    found = ask("gettysburg-address", question)
    assert found.sentences == ()
    assert found.text == SILENT


def test_an_elliptical_question_is_understood_by_the_one_before():
    found = ask("constitution", "How old must the President be?", "And a Senator?")
    assert found.question == "How old must the President be? And a Senator?"
    assert "No Person shall be a Senator" in found.text


def test_of_a_row_of_elliptical_questions_each_takes_the_place_of_the_one_before():
    found = ask("constitution", "How old must the President be?", "And a Senator?", "And a Representative?")
    assert found.question == "How old must the President be? And a Representative?"
    assert "No Person shall be a Representative" in found.text


def test_a_pronoun_is_understood_by_the_question_before():
    found = ask("constitution", "What is treason?", "How is it punished?")
    assert found.question == "What is treason? How is it punished?"
    assert "Punishment of Treason" in found.text


def test_a_question_that_stands_alone_is_taken_alone():
    assert ask("constitution", "What is treason?", "Who chuses the Speaker of the House?").question == (
        "Who chuses the Speaker of the House?"
    )


def test_an_elliptical_first_question_is_taken_as_it_is():
    assert ask("constitution", "And the Senate?").question == "And the Senate?"


def test_dutch_is_answered_as_well():
    text = "De molen staat er. De molenaar heet Jan en heeft drie kinderen. In de winter vriest de rivier dicht."
    assert answer(text, "Hoeveel kinderen heeft de molenaar?").text == "De molenaar heet Jan en heeft drie kinderen."
    assert answer(text, "Wanneer vriest de rivier dicht?").text == "In de winter vriest de rivier dicht."
    assert answer(text, "Hoe heet de burgemeester van Delft?").text == SILENT


def test_russian_is_answered_as_well():
    text = "Мельница стоит у реки. Мельника зовут Иван. Зимой река замерзает."
    assert answer(text, "Когда замерзает река?").text == "Зимой река замерзает."


def test_a_text_without_a_word_says_nothing():
    assert answer("", "Who?").text == SILENT
