"""A conversation as token ids, with a mask that says which of them the model learns to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from nanochat.errors import NanochatError

MAX_TOKENS = 2048

Conversation = Mapping[str, Any]
"""`{"messages": [{"role": "user", "content": "…"}, …]}`, as in a line of a JSONL file."""


class Encoder(Protocol):
    """What is needed of a `Tokenizer`."""

    @property
    def bos(self) -> int: ...
    def special(self, name: str) -> int: ...
    def encode(self, text: str) -> list[int]: ...


class Rendered(NamedTuple):
    """Ids, and for each 1 if the model is trained to produce it, or else 0."""

    ids: list[int]
    mask: list[int]

    def add(self, ids: Sequence[int], trained: int) -> None:
        """Append ids that are all trained or all not."""
        self.ids.extend(ids)
        self.mask.extend([trained] * len(ids))


class Part(NamedTuple):
    """How one kind of content is framed, and whether it is trained in the assistant's mouth."""

    frame: tuple[str, str] | None
    trained: int


PARTS = {
    "text": Part(None, 1),
    "python": Part(("<|python_start|>", "<|python_end|>"), 1),
    # The tool speaks here, not the model.
    "python_output": Part(("<|output_start|>", "<|output_end|>"), 0),
}


def render(
    conversation: Conversation, tokenizer: Encoder, max_tokens: int | None = MAX_TOKENS
) -> Rendered:
    """The ids and the mask of a whole conversation, cut after `max_tokens`.

    Raises:
        NanochatError: the messages are not what a conversation is made of; says which and why.
    """
    rendered = Rendered([], [])
    rendered.add([tokenizer.bos], 0)
    for message in _turns(conversation):
        _TURNS[message["role"]](message["content"], tokenizer, rendered)
    return Rendered(rendered.ids[:max_tokens], rendered.mask[:max_tokens])


def render_for_completion(conversation: Conversation, tokenizer: Encoder) -> list[int]:
    """The ids up to the point where the assistant speaks next; its last message, if any, is left out.

    Nothing is cut: how long a prompt may be is for the engine to say.

    Raises:
        NanochatError: as `render`.
    """
    turns = _turns(conversation)
    if turns[-1]["role"] == "assistant":
        turns = turns[:-1]
    ids, _ = render({"messages": turns}, tokenizer, max_tokens=None)
    return [*ids, tokenizer.special("<|assistant_start|>")]


def _user(content: Any, tokenizer: Encoder, rendered: Rendered) -> None:
    rendered.add([tokenizer.special("<|user_start|>")], 0)
    rendered.add(tokenizer.encode(content), 0)
    rendered.add([tokenizer.special("<|user_end|>")], 0)


def _assistant(content: Any, tokenizer: Encoder, rendered: Rendered) -> None:
    rendered.add([tokenizer.special("<|assistant_start|>")], 0)
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for part in parts:
        frame, trained = PARTS[part["type"]]
        ids = tokenizer.encode(part["text"])
        if frame:
            before, after = frame
            ids = [tokenizer.special(before), *ids, tokenizer.special(after)]
        rendered.add(ids, trained)
    rendered.add([tokenizer.special("<|assistant_end|>")], 1)


_TURNS = {"user": _user, "assistant": _assistant}
_ORDER = tuple(_TURNS)


def _turns(conversation: Conversation) -> list[Mapping[str, Any]]:
    """The messages, checked, with the system's merged into the first of the user."""
    messages = conversation.get("messages") if isinstance(conversation, Mapping) else None
    if not isinstance(messages, list) or not messages:
        raise NanochatError("a conversation needs a list named 'messages' with at least one in it")
    for number, message in enumerate(messages, start=1):
        _check_shape(number, message)
    turns = _without_system(messages)
    skipped = len(messages) - len(turns)
    for index, turn in enumerate(turns):
        expected = _ORDER[index % len(_ORDER)]
        if turn["role"] != expected:
            raise NanochatError(
                f"message {index + skipped + 1} is from '{turn['role']}' where '{expected}' must speak; user "
                "and assistant take turns, and the user begins"
            )
        _check_content(index + skipped + 1, turn)
    return turns


def _without_system(messages: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    first, *rest = messages
    if first["role"] != "system":
        return messages
    if not rest or rest[0]["role"] != "user":
        raise NanochatError(
            "a system message must be followed by a message from 'user', to which it is added"
        )
    for number, message in enumerate((first, rest[0]), start=1):
        _check_text(number, message)
    merged = {**rest[0], "content": f"{first['content']}\n\n{rest[0]['content']}"}
    return [merged, *rest[1:]]


def _check_shape(number: int, message: Any) -> None:
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        raise NanochatError(f"message {number} must be an object with 'role' and 'content'")


def _check_content(number: int, message: Mapping[str, Any]) -> None:
    if message["role"] == "user" or not isinstance(message["content"], list):
        _check_text(number, message)
        return
    for place, part in enumerate(message["content"], start=1):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in tuple(PARTS) or not isinstance(part.get("text"), str):
            raise NanochatError(
                f"part {place} of message {number} must have a 'text' and a 'type' of {', '.join(PARTS)}"
            )


def _check_text(number: int, message: Mapping[str, Any]) -> None:
    if not isinstance(message["content"], str):
        allowed = "a string or a list of parts" if message["role"] == "assistant" else "a string"
        raise NanochatError(
            f"message {number}, from '{message['role']}', must have {allowed} as 'content', "
            f"not {type(message['content']).__name__}"
        )
