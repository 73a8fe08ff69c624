"""What a question means that leaves out what was said before: "and in Enschede?", "which river flows there?".

A conversation remembers its topic, and its last question as a template with `{topic}` in the topic's place. A question
that names only a topic is put into the template; one that names none gets the topic. In English alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from example_app.answers import ELLIPTICAL
from example_app.names import Mention, Names
from example_app.words import FUNCTION_WORDS, WORD, content_stems, words

TOPIC = "{topic}"
LONGEST_NOUN_PHRASE = 3

DETERMINER = r"(?:the|a|an)"
PREPOSITION = r"(?:in|on|of|at|to|for|from|by|with|near|past|through|about)"
SMALL = re.compile(rf"(?:{DETERMINER}|{PREPOSITION}|and|or)", re.IGNORECASE)
LED_BY = re.compile(rf"\b(?:{DETERMINER}|{PREPOSITION}) $", re.IGNORECASE)
LEADING = re.compile(rf"{PREPOSITION} ", re.IGNORECASE)
ARTICLE = re.compile(rf"\b{DETERMINER} $", re.IGNORECASE)
NOUN = re.compile(rf"\b{DETERMINER} [^\W\d_][\w’'-]*", re.IGNORECASE)
PLACED = re.compile(rf"\b(in|on|at) (?={TOPIC})", re.IGNORECASE)

LEAVING = re.compile(
    r"(?:(?:never ?mind|forget (?:it|that)|start (?:over|again)|something else|"
    r"(?:let['’]s talk about )?(?:another|a (?:new|different)) (?:subject|topic))\b[\s,.;:!?–—-]*)+",
    re.IGNORECASE,
)
ASKS_WHICH = re.compile(r"(?:which|what|how \w+)\b", re.IGNORECASE)
IS_THERE = re.compile(r"\b(?:is|are|was|were) there\b", re.IGNORECASE)
THAT_ONE = re.compile(rf"(?<= )({PREPOSITION}) (?:this|that|these|those) \w+", re.IGNORECASE)
THERE = re.compile(r"(?<!\bis )(?<!\bare )(?<!\bwas )(?<!\bwere )\bthere\b|\bthere(?=\W*$)", re.IGNORECASE)
OWNER = re.compile(rf"\b(?:its|his|their|her(?= (?!{DETERMINER}\b|{PREPOSITION}\b)\w))\b", re.IGNORECASE)
PRONOUN = re.compile(r"\b(?:he|she|it|they|him|her|them|(?:this|that|these|those)(?=\W*$))\b", re.IGNORECASE)


class Lack(Enum):
    """What has to be said before a question can be answered."""

    TOPIC = "topic"
    QUESTION = "question"


@dataclass(frozen=True)
class Memory:
    """What a conversation remembers; the template may be empty, and so may the topic."""

    topic: str = ""
    template: str = ""


@dataclass(frozen=True)
class Understood:
    """A question that can be understood alone, or what it lacks; `memory` is what the conversation then remembers.

    `follows` says that memory completed it, `left` that the earlier subject was left.
    """

    question: str
    memory: Memory
    lack: Lack | None = None
    follows: bool = False
    left: bool = False


def understand(said: str, memory: Memory, names: Names) -> Understood:
    """What was said, with what it leaves out taken from memory."""
    said = " ".join(said.split())
    leaving = LEAVING.match(said)
    if leaving:
        return replace(_understand(said[leaving.end() :], Memory(), names), left=True)
    return _understand(said, memory, names)


def _understand(said: str, memory: Memory, names: Names) -> Understood:
    rest = said
    while opener := ELLIPTICAL.match(rest):
        rest = rest[opener.end() :].lstrip(" ,")
    if mentions := names.mentions(rest):
        return _named(rest, mentions, memory)
    pointed = _point(rest, memory)
    if pointed != rest:
        return _with_topic(pointed, memory)
    if not content_stems(rest):
        return Understood("", memory, Lack.QUESTION)
    if ASKS_WHICH.match(rest) and _is_phrase(ASKS_WHICH.sub("", rest, count=1)):
        return _with_topic(_joined(rest, "of", memory), memory)
    if memory.topic and IS_THERE.search(rest):
        return _with_topic(_joined(rest, "in", memory), memory)
    if _is_phrase(rest) and len(content_stems(rest)) <= LONGEST_NOUN_PHRASE:
        return _noun_phrase(rest, rest != said, memory, names)
    return _alone(rest, _noun(rest))


def _named(rest: str, mentions: Sequence[Mention], memory: Memory) -> Understood:
    """What has a name in it: a new topic and nothing else, or a question that can be understood alone."""
    first, last = mentions[0], mentions[-1]
    starts, ends = [*(each.start for each in mentions), len(rest)], [0, *(each.end for each in mentions)]
    others = " ".join(rest[end:start] for end, start in zip(ends, starts))
    if all(SMALL.fullmatch(word) for word in words(others)):
        name = first.name if first is last else rest[first.start : last.end]
        return _new_topic(_with_article(rest, replace(first, end=last.end, name=name)).name, memory)
    marked = [each for each in mentions if rest[each.start].isupper() or LED_BY.search(rest[: each.start])]
    rarest = min(marked or mentions, key=lambda mention: mention.uses)
    return _alone(rest, _with_article(rest, rarest))


def _noun_phrase(rest: str, opened: bool, memory: Memory, names: Names) -> Understood:
    """What is neither a name nor a question: like replaces like, so it is a topic or what to ask about a named one."""
    noun = LEADING.sub("", rest.rstrip(" ?!."))
    known = names.know(noun)
    named = bool(names.mentions(memory.topic))
    if TOPIC in memory.template and (not named or (opened and not known)):
        return _new_topic(noun, memory)
    if not known:
        return Understood(_sentence(rest), memory)
    if named:
        return _with_topic(_joined(f"What about {noun}", "of", memory), memory)
    return Understood("", Memory(noun), Lack.QUESTION)


def _new_topic(topic: str, memory: Memory) -> Understood:
    if TOPIC not in memory.template:
        return Understood("", Memory(topic), Lack.QUESTION)
    question = _sentence(memory.template.replace(TOPIC, topic))
    return Understood(question, Memory(topic, memory.template), follows=True)


def _with_topic(template: str, memory: Memory) -> Understood:
    template = _sentence(template)
    if not memory.topic:
        return Understood("", Memory(template=template), Lack.TOPIC)
    if not words(template.replace(TOPIC, "")):
        return Understood("", memory, Lack.QUESTION)
    question = _sentence(template.replace(TOPIC, memory.topic))
    return Understood(question, Memory(memory.topic, template), follows=True)


def _alone(rest: str, topic: Mention | None) -> Understood:
    """A question that needs no memory; without a topic of its own nothing can follow it."""
    question = _sentence(rest)
    if topic is None:
        return Understood(question, Memory())
    return Understood(question, Memory(topic.name, _sentence(f"{rest[: topic.start]}{TOPIC}{rest[topic.end :]}")))


def _point(rest: str, memory: Memory) -> str:
    """The question with the topic's place where it points at something."""
    rest = THAT_ONE.sub(rf"\1 {TOPIC}", rest)
    rest = THERE.sub(f"{_preposition(memory, 'in')} {TOPIC}", rest)
    return PRONOUN.sub(TOPIC, OWNER.sub(f"{TOPIC}’s", rest))


def _joined(rest: str, preposition: str, memory: Memory) -> str:
    """The question with the topic's place behind it."""
    return f"{rest.rstrip(' ?!.')} {_preposition(memory, preposition)} {TOPIC}"


def _preposition(memory: Memory, usual: str) -> str:
    """How the last question said where: people live in a town, but on an island."""
    placed = PLACED.search(memory.template)
    return placed[1] if placed else usual


def _is_phrase(text: str) -> bool:
    """Whether no verb can be told in it: it has words of meaning, articles and prepositions, and no others."""
    return all(word not in FUNCTION_WORDS or SMALL.fullmatch(word) for word in words(text))


def _with_article(rest: str, topic: Mention) -> Mention:
    article = ARTICLE.search(rest, 0, topic.start)
    if not article:
        return topic
    return replace(topic, start=article.start(), name=f"{article[0].lower()}{topic.name}")


def _noun(rest: str) -> Mention | None:
    """The last noun with its article, as far as that can be told, or else the only word of meaning."""
    telling = [word for word in WORD.finditer(rest) if content_stems(word[0])]
    nouns = list(NOUN.finditer(rest)) or (telling if len(telling) == 1 else [])
    return Mention(nouns[-1].start(), nouns[-1].end(), nouns[-1][0], 0) if nouns else None


def _sentence(text: str) -> str:
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('?', '!', '.')) else '?'}"
