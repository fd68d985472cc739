r"""Texts as numbers, and the transformer that reads them.

R. Sennrich, B. Haddow and A. Birch, "Neural Machine Translation of Rare Words with Subword Units", ACL 2016 (BPE).
A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019 (BPE over bytes).
A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021 (the encoder).

A text is its UTF-8 bytes, so that there is no text that has no numbers. Byte-pair encoding starts from the 256 bytes
and, over the training texts, joins the pair of neighbours that is seen most to a new symbol, until there are as many
as were asked for. Without that, the bytes themselves are the tokens, and no library is needed.

    h_0 = E[t_0 … t_{l−1}] + P[0 … l−1],    h = Blocks(h_0) with causal attention,    z = h at the end token      (1)

Attention is causal: what follows the end token, which is padding, is seen by nothing that is read, and needs no mask.

| symbol | shape | here |
|---|---|---|
| t | (b, l) | numbers of tokens: start, the text, end, then padding |
| E | (V, w) | a vector for each token |
| P | (length, w) | one for each place |
| z | (b, w) | the text's features |

Differs from the paper (CLIP): the size of the vocabulary is small, as the texts of a set are few.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ptheta.data.folders import AGAIN
from ptheta.data.order import generator
from ptheta.engine.errors import InputError, UsageError
from ptheta.nets.transformer import Blocks, normal

PAD, START, END = 0, 1, 2
SPECIAL = 3  # numbers before those of bytes or symbols
BYTES = SPECIAL + 256
TAGS = 64  # parts of a text that `varied` looks at


class Tokenizer:
    """Texts to numbers and back: of the symbols that the JSON text `told` describes (see `learn`), or of bytes if "".

    Raises UsageError where the `tokenizers` library is wanted and absent, InputError for a text that it cannot read.
    """

    def __init__(self, told: str = ""):
        self.told = told
        self.symbols: Any = None
        if told:
            try:
                self.symbols = library().Tokenizer.from_str(told)
            except UsageError:
                raise
            except Exception as error:  # the library raises bare exceptions
                reason = str(error).replace("\n", " ")
                raise InputError(f"the model's tokenizer cannot be read ({reason}); copy its folder again.") from error
        self.size = SPECIAL + self.symbols.get_vocab_size() if told else BYTES

    def encode(self, text: str) -> list[int]:
        """The numbers of a text, without start and end. What is no Unicode (lone surrogates) becomes "?"."""
        raw = text.encode("utf-8", "replace")
        found = self.symbols.encode(raw.decode()).ids if self.told else raw
        return [SPECIAL + i for i in found]

    def decode(self, numbers: list[int]) -> str:
        """The text of numbers; start, end and padding are passed over, and half a character is shown as �."""
        kept = [i - SPECIAL for i in numbers if i >= SPECIAL]
        return self.symbols.decode(kept) if self.told else bytes(kept).decode("utf-8", "replace")

    def tokens(self, texts: list[str], length: int) -> Int[Tensor, "b l"]:
        """t of eq. (1), as long as the longest text and at most `length`: longer texts are cut, and end in END too."""
        rows = [[START, *self.encode(text)[: length - 2], END] for text in texts]
        longest = max(map(len, rows), default=1)
        return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows], dtype=torch.long).view(-1, longest)


def library() -> Any:
    """The `tokenizers` package, or UsageError with the command that installs it."""
    try:
        import tokenizers
    except ImportError:
        raise UsageError(
            "byte-pair encoding wants the tokenizers library, which is not installed; pip install 'ptheta[selfsup]', "
            "or choose vocabulary = 0, bytes (option --vocabulary)."
        ) from None
    return tokenizers


def learn(texts: list[str], vocabulary: int) -> str:
    """The JSON text of a byte-pair encoding with at most `vocabulary` numbers, start, end and padding among them.

    The same texts give the same encoding. "" for vocabulary = 0, which means bytes. Raises UsageError for a vocabulary
    that does not hold the 256 bytes, and where the library is absent.
    """
    if vocabulary == 0:
        return ""
    if vocabulary < BYTES:
        raise UsageError(
            f"vocabulary = {vocabulary} is impossible; allowed: 0 (bytes, no library needed), or at least "
            f"{BYTES} (option --vocabulary)."
        )
    lib = library()
    made = lib.Tokenizer(lib.models.BPE())
    made.pre_tokenizer = lib.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = lib.decoders.ByteLevel()
    alphabet = lib.pre_tokenizers.ByteLevel.alphabet()  # every byte, whether the texts have it or not
    trainer = lib.trainers.BpeTrainer(
        vocab_size=vocabulary - SPECIAL, min_frequency=2, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    return made.to_str()


def first(texts: list[str]) -> list[str]:
    """The first text of each picture's."""
    return [text.split(AGAIN, 1)[0] for text in texts]


def varied(
    texts: list[str], drop: float, seed: int, step: int, rank: int = 0, world: int = 1, separator: str = ", "
) -> list[str]:
    """One text of each picture's, of whose parts, between separators, each is left out in a share `drop`; one stays
    at least, and those after the first are in another order.

    drop = 0: the texts as they are. The draw is made for the batch of all processes, of which these are slice `rank`.
    """
    b = len(texts)
    u = torch.rand(b * world, 1 + TAGS, generator=generator(seed, step, "texts"))[b * rank : b * (rank + 1)]
    out = []
    for text, (which, *drawn) in zip(texts, u.tolist()):
        ways = text.split(AGAIN)
        text = ways[int(which * len(ways))]
        parts = text.split(separator) if drop else [text]
        order = sorted(zip(drawn, range(len(parts))), reverse=True)  # those that are kept, d ≥ drop, in any order
        kept = [i for d, i in order if d >= drop] or [order[0][1]]
        out.append(separator.join(parts[i] for i in sorted(kept, key=lambda i: i > 0)))
    return out


class TextEncoder(nn.Module):
    """Eq. (1): `depth` blocks of `width`, for texts of up to `length` tokens out of `vocabulary`."""

    def __init__(self, vocabulary: int, length: int, width: int, depth: int, heads: int, g: torch.Generator):
        super().__init__()
        self.length = length
        self.E = normal(g, vocabulary, width)
        self.P = normal(g, length, width, std=0.01)
        self.blocks = Blocks(width, depth, heads, g, causal=True)

    def forward(self, t: Int[Tensor, "b l"]) -> Float[Tensor, "b w"]:
        """z: the stream at each text's end token."""
        h = self.blocks(self.E[t] + self.P[: t.shape[1]])
        end = (t == END).int().argmax(1)
        return h[torch.arange(len(t), device=t.device), end]
