"""The assistant's background work: answers from the shelf, in the light of what the session remembers.

The topic and the text of the last answer are the session's slots; the last question, without its topic, is the template
of the last user turn.
"""

from __future__ import annotations

from example_app import shelf
from example_app.extensions import sessionstatus
from example_app.followups import Lack, Memory, Understood, understand
from example_app.telling import Telling, asked_turn
from flask_sessionstatus import Run


@sessionstatus.background(type="reply")
def reply(run: Run, question: str) -> None:
    """Answers a question, or says what it lacks; either way the session remembers what was understood."""
    run.emit("question", {"text": question})
    slots = sessionstatus.sessions.slots(run.session_id)
    previous = sessionstatus.sessions.previous_user_turn(run.session_id)
    template = previous.template_id if previous else None
    understood = understand(question, Memory(str(slots.get("topic") or ""), template or ""), shelf.shelf_names())
    goes_on = understood.follows or (understood.lack and not understood.left)
    text = str(slots.get("text") or "") if goes_on else ""
    found = shelf.ask(understood.question, first=text) if understood.question else shelf.Found(None, ())
    asked = asked_turn(
        question,
        understood.question or question,
        template_id=understood.memory.template or None,
        slots={"topic": understood.memory.topic or None, "text": found.text.name if found.text else text or None},
    )
    Telling(run).answer(asked, found.sentences, _lacking(understood) or shelf.SILENT)


def _lacking(understood: Understood) -> str:
    """What the assistant has to be told before it can look anything up; empty when that is nothing."""
    if understood.lack is Lack.TOPIC:
        return "I cannot tell what that is about, for nothing was named before. Name a town, a person or a thing."
    if understood.lack is Lack.QUESTION:
        left = "Another subject, then. " if understood.left else ""
        about = f" about {understood.memory.topic}" if understood.memory.topic else ""
        return f"{left}What would you like to know{about}?"
    return ""
