"""JSON requests with one mutated field, and the mutations that leave a request valid.

A place is a path with the names of list entries instead of indices: `inputs[text].data[0]`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]
Rule = Callable[[Any], bool | None]
"""Whether a value is valid; None if it may be accepted or refused."""

REMOVED = "(removed)"
RENAMED = "(renamed)"
UNKNOWN_KEY = "né\x00"
CONTROL = "\x00\x1f\x7f"
LONG = "x" * 20_000
WORDS = "a " * 2_000
"""More tokens than the model has positions."""
LONE_SURROGATE = "\ud800"
NAN = float("nan")
UNENCODABLE = (NAN, LONE_SURROGATE)
"""Values that JSON cannot represent."""
VALUES = (
    *(None, True, False, 0, -1, 0.5, 1e308, -1e308, 2**64, NAN),
    *("", "x", "né 犬 \U0001f415 \u202e", CONTROL, LONG, WORDS, LONE_SURROGATE),
    *([], [[1]], {}, {"a": {"b": 1}}),
)


@dataclass
class Mutant:
    """A request with one mutated field."""

    place: str
    value: Any
    request: Any
    accepted: set[str]
    """Words of which an error must contain one."""

    def __str__(self) -> str:
        return f"{self.place} = {str(self.value)[:60]!r}"

    def is_named_in(self, text: str) -> bool:
        """Whether the text of an error names the mutated field."""
        return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) for word in self.accepted)


def mutants(tree: Any) -> Iterator[Mutant]:
    """Yield all mutants of a JSON value."""
    for path, old in walk(tree):
        values = [value for value in VALUES if (type(value), value) != (type(old), old)]
        if isinstance(old, list) and old:
            values.append([*old, old[0]])
        if path:
            values.append(REMOVED)
        if path and isinstance(path[-1], str):
            values.append(RENAMED)
        for value in values:
            yield mutant(tree, path, value)


def mutant(tree: Any, path: Path, value: Any) -> Mutant:
    """Return `tree` with `value` at `path`."""
    old = at(tree, path)
    if not path:
        request = value
    else:
        request = copy.deepcopy(tree)
        *parents, last = path
        parent = at(request, tuple(parents))
        if value is REMOVED:
            del parent[last]
        elif value is RENAMED:
            parent[UNKNOWN_KEY] = parent.pop(last)
        else:
            parent[last] = value
    accepted = accepted_names(tree, path, is_removed=value in (REMOVED, RENAMED))
    if value is RENAMED:
        accepted.add(UNKNOWN_KEY)
    if value in ([], {}, {"a": {"b": 1}}):
        # The children of the old value are missing.
        accepted |= {name for child, _ in walk(old) for name in accepted_names(old, child)}
    if any(value is each for each in UNENCODABLE):
        accepted.add("body")
    return Mutant(place_of(tree, path), value, request, accepted)


def walk(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every value in a JSON value with its path, starting with itself."""
    yield path, tree
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from walk(value, (*path, key))
    if isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from walk(value, (*path, index))


def at(tree: Any, path: Path) -> Any:
    """Return the value at a path."""
    for step in path:
        tree = tree[step]
    return tree


def place_of(tree: Any, path: Path) -> str:
    """Format a path as `inputs[text].data[0]`."""
    place = ""
    for step in path:
        tree = tree[step]
        if isinstance(step, int):
            name = tree.get("name", step) if isinstance(tree, dict) else step
            place += f"[{name}]"
        else:
            place += f".{step}" if place else step
    return place or "body"


def accepted_names(tree: Any, path: Path, is_removed: bool = False) -> set[str]:
    """Return the names of the field and of its list entry; for a removed field also its parent."""
    keys = [step for step in path if isinstance(step, str)] or ["body"]
    names = set(keys[-2:] if is_removed else keys[-1:])
    if keys[-1] == "image_url":
        # The error for a URL that cannot be fetched has one fixed text, whatever the field's name.
        names.add("img_url")
    for length in range(1, len(path) + 1):
        entry = at(tree, path[:length])
        if isinstance(path[length - 1], int) and isinstance(entry, dict) and "name" in entry:
            names.add(entry["name"])
            if is_removed:
                names.add(f"{path[length - 2]}[{path[length - 1]}]")
    return names


def one_of(*values: Any) -> Rule:
    """Return a rule that accepts exactly these values and distinguishes 1 from True."""
    return lambda value: any((type(value), value) == (type(each), each) for each in values)


def optional(rule: Rule) -> Rule:
    """Return a rule that also accepts a missing value and null."""
    return lambda value: value is REMOVED or value is None or rule(value)


def anything(_: Any) -> bool:
    return True


def is_text(value: Any) -> bool:
    return isinstance(value, str) and value not in (LONG, WORDS, REMOVED)


def is_word(value: Any) -> bool | None:
    """Whether a text has tokens."""
    return None if value in (LONG, WORDS) else is_text(value) and value not in ("", CONTROL)


def is_exponent(value: Any) -> bool | None:
    return None if value in (1e308, -1e308, 2**64) else one_of(0, -1, 0.5)(value)


PARAMETERS = {
    "max_new_tokens": 4,
    "min_new_tokens": 1,
    "min_length": 1,
    "num_beams": 2,
    "num_return_sequences": 2,
    "length_penalty": 0.8,
    "early_stopping": "never",
    "repetition_penalty": 1.1,
    "no_repeat_ngram_size": 2,
    "bad_words": ["cat", "dog"],
    "do_sample": True,
    "temperature": 0.9,
    "top_k": 5,
    "top_p": 0.9,
    "seed": 7,
}
"""Every generation parameter, with values that are valid together."""

GENERATION: dict[str, Rule] = {
    "max_new_tokens": one_of(),
    "min_new_tokens": one_of(0),
    "min_length": one_of(0),
    "num_beams": one_of(),
    "num_return_sequences": one_of(),
    "length_penalty": is_exponent,
    "early_stopping": one_of(True, False),
    "repetition_penalty": one_of(0.5, 2**64),
    "no_repeat_ngram_size": one_of(0),
    "do_sample": one_of(False),
    "temperature": one_of(0.5, 2**64),
    "top_k": one_of(0),
    "top_p": one_of(0, 0.5),
    "seed": one_of(0),
}
"""The rule of each generation parameter for VALUES."""


def is_valid(mutant: Mutant, rules: dict[str, Rule], strict: str = "") -> bool | None:
    """Apply the rule whose pattern matches the mutant's place; False if there is none.

    A renamed field counts as removed, or as not valid where `strict` matches the place, because
    unknown keys are refused there.
    """
    is_refused = mutant.value is RENAMED and re.fullmatch(strict, mutant.place)
    if is_refused or any(mutant.value is each for each in UNENCODABLE):
        return False
    for pattern, rule in rules.items():
        if re.fullmatch(pattern, mutant.place):
            return rule(REMOVED if mutant.value is RENAMED else mutant.value)
    return False
