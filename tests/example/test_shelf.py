import pytest

from example_app.library import bundled_texts
from example_app.shelf import ask

FACTS = [
    ("How many people live in Almelo?", "About 73,000 people live in Almelo"),
    ("How many inhabitants has Deventer?", "About 101,000 people live in Deventer"),
    ("Which river flows through Nijmegen?", "The river Waal flows past Nijmegen"),
    ("Which province is Zutphen in?", "Zutphen lies in the province of Gelderland"),
    ("What is the capital of Zeeland?", "Middelburg is the capital of the province of Zeeland"),
    ("Where was Rembrandt born?", "the painter Rembrandt was born in 1606"),
    ("What is Gouda known for?", "Gouda is known for its cheese"),
]


@pytest.mark.parametrize(("question", "told"), FACTS)
def test_facts_of_a_town_are_answered(question, told):
    assert any(told in sentence.text for sentence in ask(question).sentences)


@pytest.mark.parametrize("bundled", bundled_texts(), ids=lambda bundled: bundled.name)
def test_a_question_finds_its_text(bundled):
    assert ask(bundled.question).text == bundled


def test_a_sentence_says_in_which_text_it_stands():
    (sentence,) = ask("How many people live in Almelo?").sentences
    assert sentence.heading == "Twenty-Two Dutch Towns · Almelo"
    assert ask("What will the world remember?").sentences[0].heading == "The Gettysburg Address"


@pytest.mark.parametrize("question", ["How many people live in Paris?", "What is the weather in Almelo?", "?", "xyzzy"])
def test_what_no_text_says_is_not_made_up(question):
    found = ask(question)
    assert found.text is None
    assert found.sentences == ()


def test_of_two_texts_that_answer_the_one_asked_first_answers():
    question = "What will the world remember?"
    assert ask(question).text.name == "gettysburg-address"
    assert ask(question, first="alice-in-wonderland").text.name == "alice-in-wonderland"


def test_a_text_that_does_not_say_leaves_it_to_the_others():
    assert ask("How many people live in Almelo?", first="alice-in-wonderland").text.name == "dutch-towns"
    assert ask("How many people live in Almelo?", first="no-such-text").text.name == "dutch-towns"
