"""The prose checks of the guard: each says in one short reason why a sentence may not be shown, or None.

They err on the side of silence: a good sentence lost costs prose, a bad one shown costs trust.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files
from typing import Any

import orjson

from advise.facts import Facts, stem, words
from advise.prompt import SYSTEM, Question
from advise.sanitize import plain, redact
from advise.taint import judge
from detect.event import Severity, severity_rank

GROUNDING_FLOOR = 0.45
FOREIGN_SHARE = 0.25
_LEAK_WORDS = 5
_COPIED_WORDS = 12

_DATE = re.compile(r"\b\d{4}-\d{2}-\d{2}\b")
_CLOCK = re.compile(r"\b\d{1,2}:\d{2}(?::\d{2})?\b(?!:)")
_IDENTIFIER = re.compile(r"[\w.:/\\@$%~+-]*[\w/\\$]")
_NAMED = re.compile(
    r"\b(?:user|account|host|server|domain|group|process|file|named|called)s? [\"'“]?([\w.$@-]+)"
    r"|\b(?:for|by|as) ([\w.$@-]+)(?=\s+(?:from|on|at|over|via|using|with|and|was|were)\b|[.,])"
)
_NUMBER = re.compile(r"(?<![\w.:/-])(\d[\d,]*(?:\.\d+)?)(%?)(?![\w:/-])")
_SOURCE_BEFORE = r"(?:from|by|source|originat\w+ (?:from|at)|attacker|client)\s+(?:the\s+)?(?:\w+\s+){0,2}?"
_TARGET_BEFORE = r"(?:to|on|at|against|target\w*|towards?|victim|destination|into)\s+(?:the\s+)?(?:\w+\s+){0,2}?"


@lru_cache(maxsize=1)
def _lexicon() -> dict[str, Any]:
    lexicon: dict[str, Any] = orjson.loads(files("advise").joinpath("guard_words.json").read_bytes())
    return lexicon


@lru_cache(maxsize=8)
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(_lexicon()[name], re.IGNORECASE)


def unknown_entity(text: str, facts: Facts, severity: Severity, question: Question) -> str | None:
    """Every name-like token (address, path, hash, account, id, date) stands in a cited record or in our own words."""
    known = facts.everything
    for match in _IDENTIFIER.finditer(text):
        token = match[0].strip(".:-+'").lower()
        if not _is_identifier(token) or token in facts.clock:
            continue
        if _CLOCK.fullmatch(token) or not re.search(rf"(?<![\w.-]){re.escape(token)}(?![\w-]|\.\w)", known):
            return f"{plain(token, 40)!r} is in no cited record"
    usual = _plain_words() | {word for word in words(known)}
    for match in _NAMED.finditer(text.lower()):
        name = (match[1] or match[2]).strip(".,")
        if name not in usual and stem(name) not in _neutral() | {stem(word) for word in usual}:
            return f"{plain(name, 40)!r} is in no cited record"
    return None


def wrong_role(text: str, facts: Facts, severity: Severity, question: Question) -> str | None:
    """An address, host or account must play the part that the records give it: source is not target."""
    lowered = text.lower()
    for value, roles in facts.entities.items():
        quoted = rf"{re.escape(value)}(?![\w-]|\.\w)"
        if not re.search(rf"(?<![\w.-]){quoted}", lowered):
            continue
        if roles == {"target"} and re.search(rf"\b{_SOURCE_BEFORE}{quoted}", lowered):
            return f"{plain(value, 40)} is a target, not a source"
        if roles == {"source"} and re.search(rf"\b{_TARGET_BEFORE}{quoted}", lowered):
            return f"{plain(value, 40)} is a source, not a target"
    return None


def command_or_link(text: str, facts: Facts, severity: Severity, question: Question) -> str | None:
    """No commands, links or verbs that tell someone to do something; a verb of a cited rule's title may be repeated."""
    for name in ("commands", "links"):
        if _pattern(name).search(text):
            return f"the text holds {name}"
    ours = set(words(facts.trusted))
    for match in _pattern("destructive").finditer(text):
        if match[0].lower() not in ours:
            return f"the verb {match[0].lower()!r}"
    return None


def exoneration(text: str, facts: Facts, severity: Severity, question: Question) -> str | None:
    """From severity medium on, prose may not play anything down: only a person or an allow-list may."""
    if severity_rank(severity) >= severity_rank("medium") and (found := _pattern("exoneration").search(text)):
        return f"{found[0].lower()!r} at severity {severity}"
    return None


def ungrounded(text: str, facts: Facts, severity: Severity, question: Question) -> str | None:
    """Of each sentence's content words, enough must come from the cited records, and few from nowhere."""
    grounded = {stem(word) for word in words(" ".join((*facts.texts, facts.trusted, *facts.entities)))}
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z“\"])", text):
        content = [stem(word) for word in words(sentence) if word not in _plain_words() and not word.isdigit()]
        if not content:
            return "a sentence without content"
        supported = sum(word in grounded for word in content) / len(content)
        foreign = sum(word not in grounded and word not in _neutral() for word in content) / len(content)
        if supported < GROUNDING_FLOOR or foreign > FOREIGN_SHARE:
            return f"{supported:.2f} of the content words are in the cited records, {foreign:.2f} are from nowhere"
    return None


def unsupported_claim(text: str, facts: Facts, severity: Severity, question: Question) -> str | None:
    """Words that say an attack went through must come from a cited record or from the title of a rule that saw it."""
    known = {stem(word) for word in words(" ".join((*facts.texts, facts.trusted)))}
    for match in _pattern("claims").finditer(text):
        if not {stem(word) for word in words(match[0])} <= known:
            return f"{match[0].lower()!r} is in no cited record"
    return None


def prompt_leak(text: str, facts: Facts, severity: Severity, question: Question) -> str | None:
    """No five words in a row of the system text, no marker of the question."""
    said = words(text)
    own = words(SYSTEM)
    secret = {tuple(own[start : start + _LEAK_WORDS]) for start in range(len(own) - _LEAK_WORDS + 1)}
    if any(tuple(said[start : start + _LEAK_WORDS]) in secret for start in range(len(said) - _LEAK_WORDS + 1)):
        return "words of the system text"
    return "the request's delimiter" if question.delimiter in text else None


def wrong_number(text: str, facts: Facts, severity: Severity, question: Question) -> str | None:
    """A number must be a computed count of the noun after it, or stand in a cited record; so must a number word."""
    bare = _CLOCK.sub(" ", _DATE.sub(" ", text))
    bare = _IDENTIFIER.sub(lambda match: " it " if _is_identifier(match[0].strip(".:-+'").lower()) else match[0], bare)
    in_records = {number for record in facts.texts for number in re.findall(r"(?<![\w.:])\d+(?![\w.:])", record)}
    number_words: dict[str, int] = _lexicon()["number_words"]
    for match in re.finditer(rf"{_NUMBER.pattern}|\b({'|'.join(number_words)})\b", bare, re.IGNORECASE):
        figures, percent, word = match.groups()
        following = [token for token in words(bare[match.end() : match.end() + 40])[:3]]
        noun = next((token for token in following if token in facts.counts), "")
        allowed = facts.counts[noun]
        if word:
            fits = number_words[word.lower()] in allowed
        elif percent or "." in figures:
            fits = False
        else:
            fits = int(figures.replace(",", "")) in allowed or (not noun and figures in in_records)
        if not fits:
            return f"{match[0]!r} before {noun or 'no known noun'!r} is not a computed count"
    return None


def secret(text: str, facts: Facts, severity: Severity, question: Question) -> str | None:
    """The way out is searched for secrets again, whatever the way in removed."""
    kinds = redact(text)[1]
    return f"a {kinds[0]}" if kinds else None


def repetition(text: str, facts: Facts, severity: Severity, question: Question) -> str | None:
    """No phrase of three words twice, no stutter, no sentence that is a record copied out."""
    said = re.findall(r"[^\s]+", text.lower())
    triples = [tuple(said[start : start + 3]) for start in range(len(said) - 2)]
    if len(set(triples)) < len(triples):
        return "a phrase of three words comes twice"
    if len(said) >= 8 and len(set(said)) < 0.6 * len(said):
        return "too few different words"
    spoken = " ".join(words(text))
    for record in facts.texts:
        copied = words(record)
        for start in range(len(copied) - _COPIED_WORDS + 1):
            if " ".join(copied[start : start + _COPIED_WORDS]) in spoken:
                return "a record copied out"
    return None


def addresses_reader(text: str, facts: Facts, severity: Severity, question: Question) -> str | None:
    """A summary reports; it does not speak to its reader, give advice or quote something that does."""
    if found := _pattern("address").search(text):
        return f"{found[0].lower()!r} speaks to the reader"
    return "the text reads like an instruction" if judge(text, fluent=True).tainted else None


def malformed(text: str, facts: Facts, severity: Severity, question: Question) -> str | None:
    """One or two whole sentences of plain characters."""
    stripped = text.strip()
    if plain(text, 400) != stripped:
        return "control, invisible or template characters"
    if not re.match(r"[A-Z0-9“\"]", stripped) or not stripped.endswith("."):
        return "not a whole sentence"
    said = words(stripped)
    if sum(word in _plain_words() for word in said) < len(said) // 8:
        return "a list of words, not a sentence"
    if re.search(r"[{}\[\]*#_~^=]{2,}|[{}]|\\u", stripped):
        return "markup"
    if any(char.isalpha() and not char.isascii() and char not in facts.everything for char in stripped.lower()):
        return "letters that no cited record holds"
    return None


@lru_cache(maxsize=1)
def _plain_words() -> frozenset[str]:
    return frozenset(_lexicon()["stop"])


@lru_cache(maxsize=1)
def _neutral() -> frozenset[str]:
    return frozenset(stem(word) for word in _lexicon()["neutral"])


def _is_identifier(token: str) -> bool:
    """Tokens that name something: letters with digits, or signs inside that no plain word holds."""
    if not token or token.isdigit() or re.fullmatch(r"\d[\d,]*(\.\d+)?%?", token):
        return False
    if re.fullmatch(r"[a-z]+(-[a-z]+)*", token):
        return False
    return bool(re.search(r"\d", token)) or any(sign in token for sign in "._:/\\@$%~+")
