"""Generation against the model's own forward pass, step by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from nanochat.config import ModelConfig  # noqa: E402
from nanochat.engine import Engine, Sampler, TextStream  # noqa: E402
from nanochat.errors import NanochatError, WrongUsage  # noqa: E402
from nanochat.model import GPT  # noqa: E402

CONFIG = ModelConfig(vocab_size=40, depth=2, width=32, heads=2, kv_heads=1, sequence_len=24)
BOS, END = 38, 39
NEVER: set[int] = set()


class Tokens:
    """Forty ids, the last two of them special."""

    vocab_size, bos = 40, BOS

    def special(self, name: str) -> int:
        return {"<|assistant_end|>": END, "<|bos|>": BOS}[name]


def trained(dtype: torch.dtype = torch.float32) -> GPT:
    """Random weights, large enough that the likeliest token depends on those before it."""
    generator = torch.Generator().manual_seed(3)
    model = GPT(CONFIG)
    model.init_weights(generator)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(0.25 * torch.randn(param.shape, generator=generator))
        model.head.weight[CONFIG.vocab_size :] = 100
    return model.use(dtype=dtype, embedding_dtype=dtype)


ENGINE = Engine(trained(), Tokens())


def greedy(model: GPT, prompt: list[int], count: int) -> list[int]:
    """Without a cache, the whole text again for each token."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_at_temperature_0_each_token_is_the_likeliest(dtype: torch.dtype) -> None:
    model = trained(dtype)
    prompt = [BOS, 5, 9, 2]
    ours = Engine(model, Tokens()).complete(
        prompt, samples=3, max_tokens=12, temperature=0, stop=NEVER
    )
    right = greedy(trained(), prompt, 12)
    assert len(set(right)) > 3
    if dtype == torch.float32:
        assert ours == [right] * 3
    else:  # a near tie may fall the other way, after which everything differs
        assert ours[0] == ours[1] == ours[2] and ours[0][:3] == right[:3]


def test_the_text_may_grow_beyond_the_length_of_training() -> None:
    prompt = [BOS, 1]
    count = 2 * CONFIG.sequence_len
    ours = ENGINE.complete(prompt, max_tokens=count, temperature=0, stop=NEVER)
    assert ours == [greedy(ENGINE.model, prompt, count)]


def test_samples_have_the_probabilities_of_the_model() -> None:
    prompt, samples = [BOS, 7], 4000
    rows = ENGINE.complete(prompt, samples=samples, max_tokens=1, temperature=0.7, stop=NEVER)
    counts = Counter(row[0] for row in rows)
    with torch.no_grad():
        right = (ENGINE.model(torch.tensor([prompt]))[0, -1] / 0.7).softmax(0)
    assert right.max() < 0.9
    for token, probability in enumerate(right.tolist()):
        spread = (probability * (1 - probability) / samples) ** 0.5
        assert abs(counts[token] / samples - probability) < 5 * spread + 1e-3, token


def test_top_k_keeps_to_the_likeliest_and_each_row_draws_for_itself() -> None:
    prompt = [BOS, 7]
    rows = ENGINE.complete(prompt, samples=300, max_tokens=1, temperature=5.0, top_k=3, stop=NEVER)
    with torch.no_grad():
        best = ENGINE.model(torch.tensor([prompt]))[0, -1].topk(3).indices.tolist()
    assert {row[0] for row in rows} == set(best)


def test_a_seed_gives_the_same_text_and_touches_no_other_random_numbers() -> None:
    def run(seed: int) -> list[list[int]]:
        return ENGINE.complete([BOS, 3], samples=4, max_tokens=8, seed=seed, stop=NEVER)

    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = run(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert run(1) == first
    assert run(2) != first


def test_rows_end_each_at_its_own_time() -> None:
    stop = {4, 11, 20, 21, 22, 23, 24}
    how = {"samples": 6, "max_tokens": 30, "temperature": 1.5, "seed": 9}
    columns = list(ENGINE.generate([BOS, 3], stop=stop, **how))
    ends = []
    for row in range(6):
        tokens = [column.tokens[row] for column in columns]
        done = [column.done[row] for column in columns]
        end = done.index(True) if True in done else len(columns)
        # From its end on, a row repeats what ended it.
        assert not set(tokens[:end]) & stop and all(done[end:])
        assert set(tokens[end:]) <= {tokens[end]} if end < len(columns) else len(columns) == 30
        ends.append(end)
    assert len(set(ends)) > 2
    # The last row's end is the end of all; nothing is computed for nobody.
    assert len(columns) == min(30, max(ends) + 1)
    texts = ENGINE.complete([BOS, 3], stop=stop, **how)
    assert [len(text) for text in texts] == ends
    assert texts == [[c.tokens[r] for c in columns[:end]] for r, end in enumerate(ends)]


@pytest.mark.parametrize("special", [BOS, END])
def test_bos_and_the_end_of_the_assistant_end_a_row(special: int) -> None:
    model = trained()
    with torch.no_grad():
        model.head.weight.zero_()
        # Whatever is asked, the answer is the special token.
        last = model.hidden(torch.tensor([[BOS, 5]]))[0, -1]
        model.head.weight[special] = last
    engine = Engine(model, Tokens())
    assert engine.complete([BOS, 5], max_tokens=5, temperature=0) == [[]]
    assert len(engine.complete([BOS, 5], max_tokens=5, temperature=0, stop=NEVER)[0]) == 5


def test_a_long_prompt_is_cut_on_the_left_behind_its_bos(
    capsys: pytest.CaptureFixture[str],
) -> None:
    middle = [i % 30 for i in range(100)]
    # Many samples at a high temperature: a single token more or less to read shows in some of them.
    how = {"samples": 300, "max_tokens": 2, "temperature": 3.0, "stop": NEVER}
    kept = ENGINE.complete([BOS, *middle[-23:]], **how)
    assert capsys.readouterr().err == ""
    assert ENGINE.complete([BOS, *middle], **how) == kept
    assert "101 tokens" in capsys.readouterr().err
    assert ENGINE.complete(middle, **how) == ENGINE.complete(middle[-24:], **how) != kept


def test_nothing_to_generate_is_no_column() -> None:
    assert list(ENGINE.generate([BOS], max_tokens=0)) == []


def test_training_can_go_on_after_a_sample() -> None:
    model = trained()
    Engine(model, Tokens()).complete([BOS, 1], max_tokens=3)
    ids = torch.tensor([[BOS, 1, 2, 3]])
    model(ids, ids).backward()
    assert all(param.grad is not None for param in model.parameters())


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"samples": 0}, "samples"),
        ({"max_tokens": -1}, "tokens to generate"),
        ({"top_k": -5}, "top-k"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
    ],
)
def test_numbers_out_of_range_are_refused_at_once(how: dict[str, float], words: str) -> None:
    with pytest.raises(WrongUsage, match=words):
        ENGINE.generate([BOS], **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompt", "words"), [([], "nothing to continue"), ([40], "40"), ([-1], "-1")]
)
def test_prompts_that_the_model_cannot_read(prompt: list[int], words: str) -> None:
    with pytest.raises(NanochatError, match=words):
        ENGINE.generate(prompt)


def test_another_tokenizer_is_refused() -> None:
    class Larger(Tokens):
        vocab_size = 41

    with pytest.raises(NanochatError, match="41 tokens and the model 40"):
        Engine(trained(), Larger())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_broken_weights_are_named_as_such(temperature: float) -> None:
    model = trained()
    with torch.no_grad():
        model.embedding.weight[5] = float("nan")
    with pytest.raises(NanochatError, match="weights are broken"):
        Engine(model, Tokens()).complete([BOS, 5], temperature=temperature)


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-320])
def test_no_temperature_is_too_low(temperature: float) -> None:
    logits = torch.tensor([[0.0, 14.0, 15.0, -15.0]])
    assert Sampler(temperature, None, 0)(logits) == [2]


def test_top_k_beyond_the_vocabulary_is_all_of_it() -> None:
    assert set(Sampler(50.0, 100, 0)(torch.zeros(200, 3))) == {0, 1, 2}


# --- text ---------------------------------------------------------------------------------------


class Bytes:
    """Each id is a byte."""

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return bytes(ids)


def test_a_character_appears_when_it_is_whole() -> None:
    stream = TextStream(Bytes())
    shown = [stream.push(byte) for byte in "aé😀".encode()]
    assert shown == ["a", "", "é", "", "", "", "😀"]
    assert stream.end() == ""


def test_what_never_becomes_whole_is_shown_at_the_end() -> None:
    stream = TextStream(Bytes())
    assert [stream.push(byte) for byte in b"x\xf0\x9f"] == ["x", "", ""]
    assert stream.end() == "�"
    assert stream.push(ord("y")) == "y"


@given(st.binary(max_size=40))
def test_the_pieces_are_the_whole(data: bytes) -> None:
    stream = TextStream(Bytes())
    text = "".join([*(stream.push(byte) for byte in data), stream.end()])
    assert text == data.decode("utf-8", "replace")
