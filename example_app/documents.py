"""The submitted texts, as files that every process sees, each named by a hash of its content."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

DOCUMENT_ID = re.compile(r"[0-9a-f]{64}")
LONGEST_TITLE = 80


class DocumentError(Exception):
    """A text that cannot be taken or found; the message is for the reader of the page."""


class TextTooLong(DocumentError):
    """A text of more bytes than the host allows."""


@dataclass(frozen=True)
class Document:
    """What a conversation keeps of its text, in the metadata of its session."""

    document_id: str
    title: str
    author: str
    words: int

    def as_metadata(self) -> dict[str, str | int]:
        return {"documentId": self.document_id, "title": self.title, "author": self.author, "words": self.words}


class Documents:
    """A folder of texts of at most `max_bytes` bytes of UTF-8 each."""

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes

    def save(self, text: str, title: str = "", author: str = "") -> Document:
        """Keeps the text. Raises DocumentError for one without a word, TextTooLong for one that is too long."""
        content = text.encode("utf-8", "replace")
        if len(content) > self.max_bytes:
            raise TextTooLong(
                f"The text is too long: {_megabytes(len(content))}, and {_megabytes(self.max_bytes)} is the most."
            )
        if not any(character.isalnum() for character in text):
            raise DocumentError("There is no text in it.")
        document_id = hashlib.sha256(content).hexdigest()
        path = self._path(document_id)
        if not path.exists():
            _write(path, content)
        return Document(document_id, title or shortened(text), author, len(text.split()))

    def text(self, document_id: str) -> str:
        """The text of that id. Raises DocumentError when it is not here."""
        if DOCUMENT_ID.fullmatch(document_id):
            try:
                return self._path(document_id).read_text("utf-8")
            except FileNotFoundError:
                pass
        raise DocumentError("The text of this conversation is no longer here. Start a new one.")

    def _path(self, document_id: str) -> Path:
        return self.folder / f"{document_id}.txt"


def decode(content: bytes) -> str:
    """The text of a file: UTF-8, UTF-16 with its mark, or else Windows-1252. Raises DocumentError for a binary one."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    if b"\0" in content:
        raise DocumentError("That is not a text file.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def shortened(text: str) -> str:
    """The text's first line, as a title: cut between words where it is long."""
    line = " ".join(next(line for line in text.splitlines() if line.strip()).split())
    return line if len(line) <= LONGEST_TITLE else f"{line[:LONGEST_TITLE].rsplit(' ', 1)[0]}…"


def secret_key(folder: str | Path) -> str:
    """The key that all processes of this folder sign cookies with; made when first asked for."""
    path = Path(folder) / "secret_key"
    if not path.exists():
        _write(path, secrets.token_hex(32).encode(), replace=False)
    return path.read_text("ascii")


def _write(path: Path, content: bytes, replace: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        Path(temporary).unlink(missing_ok=True)


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:.1f} MB"
