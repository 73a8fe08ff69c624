"""A session's turns as DSPy's History, where that library is installed."""

from __future__ import annotations

from collections.abc import Sequence

import dspy

from ..models import Turn


def history(turns: Sequence[Turn], *, question: str = "question", answer: str = "answer") -> dspy.History:
    """The questions that were answered, with their answers, under the names of your signature's fields.

    A question counts as it was resolved. What several assistant turns say to one question stands in one answer, a line
    each; a question without an answer is left out, and so are other roles.
    """
    messages: list[dict[str, str]] = []
    asked: str | None = None
    for turn in turns:
        if turn.role == "user":
            asked = turn.resolved_question or turn.content
        elif turn.role == "assistant" and asked is not None:
            messages.append({question: asked, answer: turn.content})
            asked = None
        elif turn.role == "assistant" and messages:
            messages[-1][answer] += f"\n{turn.content}"
    return dspy.History(messages=messages)
