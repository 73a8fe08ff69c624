import threading

import pytest

from example_app.documents import DocumentError, Documents, TextTooLong, decode, secret_key


@pytest.fixture
def documents(tmp_path):
    return Documents(tmp_path / "documents", max_bytes=1000)


def test_a_saved_text_is_found_again_by_every_process(documents, tmp_path):
    document = documents.save("Ein Text.\n\nMit Ümlaut.")
    assert Documents(tmp_path / "documents", max_bytes=1000).text(document.document_id) == "Ein Text.\n\nMit Ümlaut."


def test_the_same_text_is_one_file(documents):
    assert documents.save("One.").document_id == documents.save("One.").document_id
    assert len(list(documents.folder.iterdir())) == 1


def test_a_text_without_a_title_is_named_by_its_first_line(documents):
    assert documents.save("\n  The first line\nand more").title == "The first line"


def test_a_long_first_line_is_shortened_between_words(documents):
    title = documents.save("word " * 100).title
    assert title.endswith("word…")
    assert len(title) <= 81


def test_a_text_without_a_word_is_refused(documents):
    with pytest.raises(DocumentError, match="no text"):
        documents.save(" \n … ")


def test_a_text_is_bounded_in_bytes_not_in_characters(documents):
    documents.save("é" * 500)
    with pytest.raises(TextTooLong, match="too long"):
        documents.save("é" * 501)


@pytest.mark.parametrize("document_id", ["", "None", "../secret_key", "0" * 64, "0" * 63 + "/"])
def test_an_unknown_id_is_told_apart_from_nothing_and_reaches_no_other_file(documents, document_id):
    secret_key(documents.folder)
    with pytest.raises(DocumentError, match="no longer here"):
        documents.text(document_id)


@pytest.mark.parametrize(
    "content",
    [
        "“Müller” — ja".encode(),
        "“Müller” — ja".encode("utf-8-sig"),
        "“Müller” — ja".encode("utf-16"),
        "“Müller” — ja".encode("cp1252"),
    ],
    ids=["utf-8", "utf-8 with its mark", "utf-16", "windows-1252"],
)
def test_an_uploaded_file_may_have_any_usual_encoding(content):
    assert decode(content) == "“Müller” — ja"


def test_a_binary_file_is_refused():
    with pytest.raises(DocumentError, match="not a text"):
        decode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")


def test_processes_that_start_together_agree_on_the_secret_key(tmp_path):
    keys = []
    threads = [threading.Thread(target=lambda: keys.append(secret_key(tmp_path / "new"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keys)) == 1
    assert len(keys) == 8
