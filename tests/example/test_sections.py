from example_app.library import bundled_text
from example_app.sections import read_sections

STORY = """\
CHAPTER I

The Beginning

It began well. Nobody knew why.

CHAPTER II

It ended badly. Everybody knew why.
"""


def test_a_heading_begins_a_section_and_is_no_sentence():
    sections = read_sections(STORY)
    assert [section.heading for section in sections] == ["Chapter I, The Beginning", "Chapter II"]
    assert [sentence.text for sentence in sections[1].sentences] == ["It ended badly.", "Everybody knew why."]


def test_sentences_are_numbered_through_the_whole_text():
    sentences = [sentence for section in read_sections(STORY) for sentence in section.sentences]
    assert [(sentence.number, sentence.section) for sentence in sentences] == [(1, 1), (2, 1), (3, 2), (4, 2)]


def test_a_markdown_heading_is_a_heading():
    (section,) = read_sections("# What happened\n\nIt rained. We stayed at home.")
    assert section.heading == "What happened"


def test_a_text_without_headings_is_read_in_parts():
    sections = read_sections("\n\n".join("One thing happened. Then another did." for _ in range(60)))
    assert len(sections) > 3
    assert {section.heading for section in sections} == {""}


def test_a_long_chapter_is_read_in_parts_of_the_same_name():
    sections = read_sections("Chapter 1\n\n" + "It went on. " * 400)
    assert len(sections) > 5
    assert {section.heading for section in sections} == {"Chapter 1"}


def test_a_compound_broken_at_the_end_of_a_line_is_joined():
    assert read_sections("He took it out of his waistcoat-\npocket.")[0].sentences[0].text.endswith("waistcoat-pocket.")


def test_each_item_of_a_list_is_a_sentence():
    (section,) = read_sections("- bread\n- butter\n- two eggs")
    assert [sentence.text for sentence in section.sentences] == ["- bread", "- butter", "- two eggs"]


def test_a_verse_without_stops_is_one_sentence():
    (section,) = read_sections(
        "How doth the little crocodile\nimprove his shining tail\nand pour the waters of the Nile"
    )
    assert len(section.sentences) == 1


def test_there_is_nothing_to_read_in_a_text_without_a_word():
    assert read_sections("") == read_sections(" \n\n … !!! \n") == ()


def test_a_text_of_headings_alone_still_has_something_to_read():
    assert read_sections("CHAPTER I\n\nCHAPTER II")[0].sentences


def test_the_chapters_of_alice_are_found():
    alice = bundled_text("alice-in-wonderland")
    assert alice is not None
    headings = list(dict.fromkeys(section.heading for section in read_sections(alice.text)))
    assert len(headings) == 12
    assert headings[0] == "Chapter I, Down the Rabbit-Hole"
    assert headings[10] == "Chapter XI, Who Stole the Tarts?"
