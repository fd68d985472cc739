"""Texts as numbers: no text is lost, byte pairs by hand, what is drawn in varied texts, and what the encoder reads."""

import collections
import copy
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptheta.data.folders import AGAIN
from ptheta.data.order import generator
from ptheta.engine.errors import InputError, UsageError
from ptheta.selfsup.text import BYTES, END, PAD, SPECIAL, START, TextEncoder, Tokenizer, first, learn, library, varied

TEXTS = ["red apple, fruit, red", "green apple, fruit, green", "grapes, fruit", "hóngbāo, gift, 红包"] * 3


@pytest.fixture(scope="module")
def pairs() -> Tokenizer:
    pytest.importorskip("tokenizers")
    return Tokenizer(learn(TEXTS, 300))


# ---------------------------------------------------------------- numbers


@settings(deadline=None, max_examples=200)
@given(text=st.text())
def test_bytes_give_every_text_back(text):
    tokenizer = Tokenizer()
    numbers = tokenizer.encode(text)
    assert tokenizer.decode(numbers) == text and all(SPECIAL <= i < BYTES for i in numbers)
    assert tokenizer.decode([START, *numbers, END, PAD, PAD]) == text
    assert [i - SPECIAL for i in numbers] == list(text.encode())


@settings(deadline=None, max_examples=200)
@given(text=st.text() | st.sampled_from(["<pad>", "a  b\n\tc ", "Ġ", "it's", " apple", "👩‍🚒", "e\u0301"]))
def test_byte_pairs_give_every_text_back(pairs, text):
    numbers = pairs.encode(text)
    assert pairs.decode(numbers) == text and all(SPECIAL <= i < pairs.size for i in numbers)


def test_the_most_frequent_neighbours_are_joined(pairs):
    """By hand: counts of pairs inside words of one kind, the best joined each time, as long as one comes twice."""
    words = collections.Counter({tuple("aab"): 5, tuple("aac"): 3, tuple("bc"): 2})
    joined = []
    for _ in range(3):
        counts = collections.Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:]):
                counts[pair] += n
        best = max(counts, key=counts.__getitem__)
        joined.append("".join(best))
        merged = collections.Counter()
        for word, n in words.items():
            out, i = [], 0
            while i < len(word):
                both = word[i : i + 2] == best
                out.append("".join(best) if both else word[i])
                i += 1 + both
            merged[tuple(out)] += n
        words = merged
    assert joined == ["aa", "aab", "aac"]
    told = ["aab"] * 5 + ["aac"] * 3 + ["bc"] * 2
    for merges in range(4):
        tokenizer = Tokenizer(learn(told, BYTES + merges))
        assert tokenizer.size == BYTES + merges
        new = [i for i in range(BYTES, tokenizer.size)]
        assert [tokenizer.decode([i]) for i in new] == joined[:merges]
        assert len(tokenizer.encode("aab")) == (3, 2, 1, 1)[merges]
    assert len(pairs.encode("red apple")) < len("red apple")


def test_the_same_texts_give_the_same_encoding_and_it_is_all_there_is(pairs):
    assert learn(TEXTS, 300) == pairs.told
    again = Tokenizer(pairs.told)
    assert again.size == pairs.size <= 300 and all(again.encode(t) == pairs.encode(t) for t in TEXTS)
    assert copy.deepcopy(pairs).encode(TEXTS[0]) == pairs.encode(TEXTS[0])
    assert learn(TEXTS, 0) == "" and Tokenizer().size == BYTES == 259


def test_what_is_no_unicode_becomes_a_question_mark():
    tokenizer = Tokenizer()
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a?b"
    assert tokenizer.decode(tokenizer.encode("é")[:1]) == "�"


def test_tokens_begin_and_end_and_are_padded_and_cut():
    a, b, c = (SPECIAL + ord(letter) for letter in "abc")
    got = Tokenizer().tokens(["abc", "", "ab"], 9)
    assert got.tolist() == [[START, a, b, c, END], [START, END, PAD, PAD, PAD], [START, a, b, END, PAD]]
    assert got.dtype == torch.long
    assert Tokenizer().tokens(["abc", "a"], 4).tolist() == [[START, a, b, END], [START, a, END, PAD]]
    assert Tokenizer().tokens(["abc"], 3).tolist() == [[START, a, END]]
    assert Tokenizer().tokens([], 5).shape == (0, 1)


# ---------------------------------------------------------------- refusals


def test_without_the_library_bytes_work_and_byte_pairs_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert Tokenizer(learn(["a"], 0)).encode("a") == [SPECIAL + 97]
    for use in (library, lambda: learn(["a"], 300), lambda: Tokenizer("{}")):
        with pytest.raises(UsageError, match=r"pip install 'ptheta\[selfsup\]', or choose vocabulary = 0") as error:
            use()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("vocabulary", [1, 3, 256, 258])
def test_a_vocabulary_without_all_bytes_is_refused(vocabulary):
    with pytest.raises(UsageError, match=rf"vocabulary = {vocabulary} is impossible; allowed: 0 .* at least 259"):
        learn(["a"], vocabulary)


@pytest.mark.parametrize("broken", ["{", "{}", "[1]"])
def test_a_broken_tokenizer_is_refused(broken):
    pytest.importorskip("tokenizers")
    with pytest.raises(InputError, match="tokenizer cannot be read .*; copy its folder again") as error:
        Tokenizer(broken)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- varied texts


def test_varied_texts_keep_a_share_of_their_parts_the_first_in_its_place_the_others_in_any_order():
    text, n = "name, a, b, c", 4000
    out = varied([text] * n, 0.25, 0, 0)
    kept = [t.split(", ") for t in out]
    assert all(0 < len(set(parts)) == len(parts) and "name" not in parts[1:] for parts in kept)
    for tag in ("name", *"abc"):
        assert sum(tag in parts for parts in kept) / n == pytest.approx(0.75, abs=0.03)
    orders = collections.Counter(tuple(parts[1:]) for parts in kept if len(parts) == 4)
    assert sum(orders.values()) / n == pytest.approx(0.75**4, abs=0.03)
    assert len(orders) == 6 and max(orders.values()) < 1.5 * min(orders.values())


def test_of_several_texts_each_is_drawn_alike_and_the_first_is_asked_for():
    several = AGAIN.join(["a cat, small", "eine Katze", "un chat"])
    assert first([several, "one, alone"]) == ["a cat, small", "one, alone"]
    drawn = collections.Counter(varied([several] * 3000, 0.0, 0, 0))
    assert set(drawn) == {"a cat, small", "eine Katze", "un chat"}
    assert all(count / 3000 == pytest.approx(1 / 3, abs=0.04) for count in drawn.values())
    assert set(varied([several] * 300, 0.5, 0, 0)) == {"a cat, small", "a cat", "small", "eine Katze", "un chat"}


def test_varied_texts_are_keyed_and_those_of_processes_are_slices():
    texts = TEXTS[:8]
    whole = varied(texts, 0.5, 1, 7)
    assert whole == varied(texts, 0.5, 1, 7) != varied(texts, 0.5, 1, 8)
    assert whole == varied(texts[:4], 0.5, 1, 7, 0, 2) + varied(texts[4:], 0.5, 1, 7, 1, 2)
    assert varied(texts, 0.0, 1, 7) == texts and varied(["no comma"], 0.9, 0, 0) == ["no comma"]
    long = "x, " + ", ".join(map(str, range(200)))
    assert varied([long], 0.01, 0, 0)[0].startswith("x, ")
    alone = collections.Counter(varied(["a, b"] * 2000, 0.99, 0, 0))  # nearly always one that is drawn alike
    assert set(alone) <= {"a", "b", "a, b"} and alone["a"] / 2000 == pytest.approx(0.5, abs=0.05)


# ---------------------------------------------------------------- the encoder


def encoder(seed: int = 0) -> TextEncoder:
    net = TextEncoder(BYTES, 12, 8, 2, 2, generator(seed, 0, "text")).double()
    with torch.no_grad():
        for p in net.parameters():  # larger than at the start, so that everything counts
            p += 0.3 * torch.randn(p.shape, generator=generator(seed, 1, "text"), dtype=torch.float64)
    return net


def test_features_are_those_at_the_end_token_whatever_the_padding():
    net, tokenizer = encoder(), Tokenizer()
    texts = ["ab", "abcdef", "", "xyz"]
    z = net(tokenizer.tokens(texts, 12))
    for text, row in zip(texts, z):
        t = tokenizer.tokens([text], 12)
        stream = net.blocks(net.E[t[0]][None] + net.P[None, : t.shape[1]])
        torch.testing.assert_close(row, stream[0, -1], rtol=1e-10, atol=1e-10)
    t = tokenizer.tokens(texts, 12)
    torch.testing.assert_close(net(torch.where(t == PAD, 77, t)), z, rtol=1e-12, atol=1e-12)


def test_every_token_and_its_place_count():
    net, tokenizer = encoder(), Tokenizer()
    z = net(tokenizer.tokens(["abc", "abd", "bac", "abc", "ab"], 12))
    distances = torch.cdist(z, z)
    assert distances[0, 3] == 0 and (distances[0, [1, 2, 4]] > 1e-3).all()
