import pytest

from example_app.followups import Lack, Memory, understand
from example_app.shelf import shelf_names


def converse(*said):
    """How the last of the remarks is understood, after the others."""
    understood = None
    for remark in said:
        understood = understand(remark, understood.memory if understood else Memory(), shelf_names())
    return understood


PEOPLE = "How many people live in Almelo?"


# A topic alone


@pytest.mark.parametrize(
    "said", ["and in Enschede?", "And Enschede", "what about enschede?", "Enschede?", "in Enschede", "But Enschede?"]
)
def test_a_topic_alone_takes_the_last_question(said):
    understood = converse(PEOPLE, said)
    assert understood.question == "How many people live in Enschede?"
    assert understood.memory.topic == "Enschede"
    assert understood.follows


def test_of_a_row_of_topics_each_takes_the_question():
    assert converse(PEOPLE, "and in Enschede?", "and in Zwolle?").question == "How many people live in Zwolle?"


def test_a_topic_keeps_the_article_with_which_it_was_said():
    assert converse("How old must the President be?", "And a Senator?").question == "How old must a Senator be?"
    assert converse("What does the Queen shout?", "and to Alice?").question == "What does Alice shout?"


def test_two_topics_at_once_are_one():
    assert converse(PEOPLE, "and Zwolle and Kampen?").question == "How many people live in Zwolle and Kampen?"


def test_a_topic_that_no_text_knows_is_asked_about_all_the_same():
    assert converse(PEOPLE, "and in Timbuktu?").question == "How many people live in Timbuktu?"
    assert converse(PEOPLE, "and in timbuktu?").question == "How many people live in timbuktu?"


def test_a_thing_without_a_name_takes_the_place_of_another_one():
    assert converse("Who stole the tarts?", "and the treacle?").question == "Who stole the treacle?"


def test_the_rarest_name_of_a_question_is_its_topic():
    understood = converse("How many Senators does each State have?", "and Representatives?")
    assert understood.question == "How many Representatives does each State have?"


# A question alone


@pytest.mark.parametrize(
    ("said", "question"),
    [
        ("and which river flows there?", "Which river flows in Almelo?"),
        ("what is it known for?", "What is Almelo known for?"),
        ("What is its province?", "What is Almelo’s province?"),
        ("Which river flows through that town?", "Which river flows through Almelo?"),
        ("how many inhabitants?", "How many inhabitants in Almelo?"),
        ("Is there a university?", "Is there a university in Almelo?"),
        ("and the river?", "What about the river in Almelo?"),
        ("Which canal is there?", "Which canal is in Almelo?"),
    ],
)
def test_a_question_alone_takes_the_topic(said, question):
    understood = converse(PEOPLE, said)
    assert understood.question == question
    assert understood.memory.topic == "Almelo"
    assert understood.follows


def test_a_pronoun_stands_for_a_person_too():
    assert converse("Who is the White Rabbit?", "What does he say?").question == "What does the White Rabbit say?"
    assert converse("Who is the Duchess?", "and her baby?").question == "The Duchess’s baby?"


def test_a_question_that_took_the_topic_is_the_one_that_the_next_topic_takes():
    understood = converse(PEOPLE, "and which river flows there?", "and in Deventer?")
    assert understood.question == "Which river flows in Deventer?"


# A question that stands alone


@pytest.mark.parametrize(
    "said", ["Who stole the tarts?", "and who stole the tarts?", "What will the world remember?", "Where is Zwolle?"]
)
def test_a_question_that_stands_alone_is_taken_alone(said):
    understood = converse(PEOPLE, said)
    assert understood.question.lower() == said.removeprefix("and ").lower()
    assert understood.memory.topic != "Almelo"
    assert not understood.follows


def test_a_question_with_a_name_of_its_own_is_about_that():
    assert converse(PEOPLE, "Does the Queen know his name?").question == "Does the Queen know his name?"


def test_a_question_without_a_topic_leaves_none_to_the_next():
    assert converse(PEOPLE, "Who can say why dogs bark loudly?").memory == Memory()


def test_a_word_that_no_text_knows_changes_nothing_that_is_remembered():
    understood = converse(PEOPLE, "hello", "and in Enschede?")
    assert understood.question == "How many people live in Enschede?"


# What is lacking


@pytest.mark.parametrize(
    "said", ["which river flows there?", "How old is he?", "Which province?", "how many inhabitants"]
)
def test_a_first_question_that_names_nothing_lacks_its_topic(said):
    understood = converse(said)
    assert understood.lack is Lack.TOPIC
    assert understood.question == ""


def test_a_topic_that_was_lacking_can_be_said_alone():
    assert converse("which river flows there?", "Deventer").question == "Which river flows in Deventer?"


@pytest.mark.parametrize("said", ["and in Enschede?", "Enschede", "What about Enschede?"])
def test_a_first_topic_alone_lacks_its_question(said):
    understood = converse(said)
    assert understood.lack is Lack.QUESTION
    assert understood.memory.topic == "Enschede"


def test_a_question_that_was_lacking_can_point_at_the_topic():
    assert converse("and in Enschede?", "how many people live there?").question == "How many people live in Enschede?"


@pytest.mark.parametrize("said", ["why?", "and?", "?", "what about it?"])
def test_a_question_that_asks_nothing_lacks_its_question_and_leaves_the_topic(said):
    understood = converse(PEOPLE, said)
    assert understood.lack is Lack.QUESTION
    assert understood.memory.topic == "Almelo"


# Another subject


@pytest.mark.parametrize(
    "said",
    ["never mind", "Never mind, another subject!", "forget it.", "Let’s talk about a different topic", "start over"],
)
def test_a_subject_that_is_left_is_forgotten(said):
    understood = converse(PEOPLE, said)
    assert understood.left
    assert understood.memory == Memory()
    assert converse(PEOPLE, said, "and in Enschede?").lack is Lack.QUESTION


def test_a_subject_can_be_left_and_another_one_asked_about_at_once():
    understood = converse(PEOPLE, "Never mind. Who is the White Rabbit?")
    assert understood.left
    assert understood.question == "Who is the White Rabbit?"


def test_what_is_asked_behind_a_subject_that_was_left_takes_nothing_from_it():
    assert converse(PEOPLE, "never mind, which river flows there?").lack is Lack.TOPIC


# Whatever is said


@pytest.mark.parametrize(
    "said", ["", "  ", "{topic}", "and {topic}", "\\1", "it it it", "and and and", "?" * 50, "ё" * 999]
)
def test_whatever_is_said_is_understood_somehow_or_lacks_something(said):
    for earlier in ([], [PEOPLE], ["which river flows there?"]):
        understood = converse(*earlier, said)
        assert bool(understood.question) != bool(understood.lack)


def test_a_template_that_somebody_else_wrote_does_no_harm():
    understood = understand("and in Enschede?", Memory("{topic}", "{topic} {0} {"), shelf_names())
    assert understood.question == "Enschede {0} {?"
