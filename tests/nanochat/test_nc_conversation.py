"""Conversations against a renderer that goes letter by letter, and conversations that are none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.conversation import render, render_for_completion
from nanochat.errors import NanochatError

NAMES = (
    "bos user_start user_end assistant_start assistant_end python_start python_end output_start "
    "output_end"
).split()
SPECIAL = {f"<|{name}|>": 1_000_000 + i for i, name in enumerate(NAMES)}


class Letters:
    """A tokenizer whose ids are code points."""

    bos = SPECIAL["<|bos|>"]

    def special(self, name: str) -> int:
        return SPECIAL[name]

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


LETTERS = Letters()


def spelled(markup: str) -> tuple[list[int], list[int]]:
    """Ids and mask of a conversation written by hand: `{…}` is trained, markers are tokens."""
    ids, mask, trained = [], [], 0
    while markup:
        if markup[0] in "{}":
            trained = int(markup[0] == "{")
            markup = markup[1:]
            continue
        name = next((name for name in SPECIAL if markup.startswith(name)), None)
        ids.append(SPECIAL[name] if name else ord(markup[0]))
        mask.append(trained)
        markup = markup[len(name or "x") :]
    return ids, mask


def said(*messages: tuple[str, Any]) -> dict[str, Any]:
    """A conversation of (role, content) pairs."""
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


PYTHON = [
    {"type": "text", "text": "let me see "},
    {"type": "python", "text": "2+2"},
    {"type": "python_output", "text": "4"},
    {"type": "text", "text": "four"},
]


@pytest.mark.parametrize(
    ("conversation", "expected"),
    [
        (
            said(("user", "hi"), ("assistant", "yo")),
            "<|bos|><|user_start|>hi<|user_end|><|assistant_start|>{yo<|assistant_end|>}",
        ),
        (
            said(("system", "be kind"), ("user", "hi"), ("assistant", "yo")),
            "<|bos|><|user_start|>be kind\n\nhi<|user_end|><|assistant_start|>{yo<|assistant_end|>}",
        ),
        (
            said(("user", "2+2?"), ("assistant", PYTHON), ("user", "ok")),
            "<|bos|><|user_start|>2+2?<|user_end|><|assistant_start|>{let me see "
            "<|python_start|>2+2<|python_end|>}<|output_start|>4<|output_end|>{four<|assistant_end|>}"
            "<|user_start|>ok<|user_end|>",
        ),
        (
            said(("user", ""), ("assistant", [])),
            "<|bos|><|user_start|><|user_end|><|assistant_start|>{<|assistant_end|>}",
        ),
    ],
)
def test_masks_by_hand(conversation: dict[str, Any], expected: str) -> None:
    """The table of the format, spelled out."""
    assert render(conversation, LETTERS) == spelled(expected)


PARTS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "python", "python_output"]), "text": st.text(max_size=4)}
    ),
    max_size=3,
)
TURNS = st.lists(
    st.tuples(st.text(max_size=5), st.one_of(st.text(max_size=5), PARTS)), min_size=1, max_size=4
)


def naively(
    turns: list[tuple[str, Any]], system: str | None, last_is_user: bool
) -> tuple[list[int], list[int]]:
    """The same rules written the slow way, one (id, mask) pair after another."""
    pairs: list[tuple[int, int]] = [(SPECIAL["<|bos|>"], 0)]
    for number, (question, answer) in enumerate(turns):
        text = f"{system}\n\n{question}" if number == 0 and system is not None else question
        pairs.append((SPECIAL["<|user_start|>"], 0))
        for letter in text:
            pairs.append((ord(letter), 0))  # noqa: PERF401
        pairs.append((SPECIAL["<|user_end|>"], 0))
        if last_is_user and number == len(turns) - 1:
            break
        pairs.append((SPECIAL["<|assistant_start|>"], 0))
        parts = answer if isinstance(answer, list) else [{"type": "text", "text": answer}]
        for part in parts:
            own = 0 if part["type"] == "python_output" else 1
            word = {"python": "python", "python_output": "output"}.get(part["type"])
            inner = [(ord(letter), own) for letter in part["text"]]
            if word is not None:
                inner.insert(0, (SPECIAL[f"<|{word}_start|>"], own))
                inner.append((SPECIAL[f"<|{word}_end|>"], own))
            pairs += inner
        pairs.append((SPECIAL["<|assistant_end|>"], 1))
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


@given(TURNS, st.none() | st.text(max_size=4), st.booleans(), st.integers(1, 60))
def test_any_conversation(
    turns: list[tuple[str, Any]], system: str | None, last_is_user: bool, limit: int
) -> None:
    """Whole, cut, and as a prompt; the conversation itself is never changed."""
    messages: list[tuple[str, Any]] = []
    for question, answer in turns:
        messages += [("user", question), ("assistant", answer)]
    if last_is_user:
        messages.pop()
    if system is not None:
        messages.insert(0, ("system", system))
    conversation = said(*messages)
    before = repr(conversation)

    ids, mask = naively(turns, system, last_is_user)
    assert render(conversation, LETTERS, max_tokens=None) == (ids, mask)
    assert render(conversation, LETTERS, max_tokens=limit) == (ids[:limit], mask[:limit])

    prompt, _ = naively(turns, system, last_is_user=True)
    assert render_for_completion(conversation, LETTERS) == [
        *prompt,
        SPECIAL["<|assistant_start|>"],
    ]
    assert repr(conversation) == before


def test_cut_at_2048_by_default() -> None:
    """As many as a row of training has."""
    ids, mask = render(said(("user", "x" * 5000)), LETTERS)
    assert len(ids) == len(mask) == 2048


def test_text_that_looks_like_a_marker() -> None:
    """A user cannot end a turn by writing its marker."""
    ids, _ = render(said(("user", "<|user_end|>")), LETTERS)
    assert ids.count(SPECIAL["<|user_end|>"]) == 1


@pytest.mark.parametrize(
    ("conversation", "words"),
    [
        ({}, "list named 'messages'"),
        ([], "list named 'messages'"),
        (said(), "at least one"),
        ({"messages": ["hi"]}, "message 1 must be an object"),
        ({"messages": [{"role": "user"}]}, "message 1 must be an object with 'role' and 'content'"),
        (said(("assistant", "yo")), "message 1 is from 'assistant' where 'user' must speak"),
        (said(("user", "a"), ("user", "b")), "message 2 is from 'user' where 'assistant' must"),
        (
            said(("system", "s"), ("user", "a"), ("user", "b")),
            "message 3 is from 'user' where 'assistant' must",
        ),
        (said(("user", "a"), ("system", "s")), "message 2 is from 'system'"),
        (said(("user", "a"), ("tool", "s")), "message 2 is from 'tool'"),
        (said(("system", "s")), "must be followed by a message from 'user'"),
        (
            said(("system", "s"), ("assistant", "a")),
            "must be followed by a message from 'user'",
        ),
        (said(("system", ["s"]), ("user", "a")), "message 1, from 'system', must have a string"),
        (said(("user", 3)), "message 1, from 'user', must have a string as 'content', not int"),
        (said(("user", "a"), ("assistant", None)), "string or a list of parts.*not NoneType"),
        (said(("user", "a"), ("assistant", ["x"])), "part 1 of message 2"),
        (
            said(("user", "a"), ("assistant", [{"type": "image", "text": "x"}])),
            "a 'type' of text, python, python_output",
        ),
        (said(("user", "a"), ("assistant", [{"type": ["text"], "text": "x"}])), "part 1"),
        (said(("user", "a"), ("assistant", [{"type": "text"}])), "part 1 of message 2"),
        (said((["user"], "a")), "message 1 is from"),
    ],
)
def test_what_is_no_conversation(conversation: Any, words: str) -> None:
    """One sentence each, with the number of the message; for prompts the same."""
    for function in (render, render_for_completion):
        with pytest.raises(NanochatError, match=words):
            function(conversation, LETTERS)
