import pytest

from example_app.names import Names

TEXT = """The Mill

Zwolle lies on the river. The river flows past Zwolle, and past the New Market of Zwolle. Every mill has a miller.
The miller said, ‘Every day I mill.’ In the House of Commons they heard of the Mill, and of a street, Long Lane.
"""


@pytest.fixture
def names():
    return Names([TEXT])


def mentioned(names, question):
    return [(question[mention.start : mention.end], mention.uses) for mention in names.mentions(question)]


def test_a_name_is_known_however_it_is_written(names):
    assert mentioned(names, "who lives in zwolle?") == [("zwolle", 1)]
    assert mentioned(names, "WHO LIVES IN ZWOLLE?") == [("ZWOLLE", 1)]


def test_a_name_is_given_as_the_text_writes_it(names):
    (mention,) = names.mentions("who lives in zwolle?")
    assert mention.name == "Zwolle"


def test_of_several_words_the_longest_name_counts(names):
    assert mentioned(names, "What is the new market of zwolle?") == [("new market of zwolle", 1)]
    assert mentioned(names, "Who sits in the House of Commons?") == [("House of Commons", 1)]


def test_the_owner_is_the_name_without_its_ending(names):
    assert mentioned(names, "What is Zwolle’s river?") == [("Zwolle", 1)]


def test_a_word_that_is_mostly_written_small_is_no_name(names):
    assert mentioned(names, "Has every mill a lane?") == []


def test_a_word_that_only_begins_a_sentence_or_a_quotation_is_no_name(names):
    assert mentioned(names, "Is every one of them there?") == []


def test_a_name_that_the_text_does_not_use_is_known_by_its_capital(names):
    assert mentioned(names, "and in Paris?") == [("Paris", 0)]
    assert mentioned(names, "Paris?") == []


def test_words_are_known_with_all_their_endings_and_unknown_ones_are_not(names):
    assert names.know("the mills")
    assert not names.know("the windmill")


def test_no_text_has_no_names():
    assert mentioned(Names([]), "who lives in zwolle?") == []
