"""How many tokens a text has at least, known from its bytes: making the tokens takes much longer.

Known of byte-level BPE, where each byte of a text is in exactly one token. Elsewhere a token may
stand for any length, such as one for a whole unknown word, or for the white space around it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHRINKS = {"NoneType": 1, "NFC": 3}
"""By what factor a normalizer makes a text shorter at most, in UTF-8. Composed, three bytes may
stand for nine (Hangul) and none for more."""
DROPS = re.compile(r"removed|whitespace|bert|metaspace|delimiter|punctuation", re.IGNORECASE)
"""Ways to split a text of which some leave a part of it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBytes:
    """What the tokens of a tokenizer can stand for.

    Example: `TokenBytes(most=81, dropped=b"\\x04").fewest_tokens("a" * 82) == 2`
    """

    most: int
    """Bytes of a text that are in one token at most."""
    dropped: bytes
    """Bytes that are in no token: the tokenizer drops them."""

    def fewest_tokens(self, text: str) -> int:
        """A number that this text's tokens are not below."""
        kept = text.encode("utf-8", "replace").translate(None, self.dropped)
        return -(-len(kept) // self.most)


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> TokenBytes | None:
    """Of this tokenizer; `None` where nothing is known."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or type(backend.model).__name__ != "BPE" or backend.model.unk_token:
        return None
    normalizer, splits = type(backend.normalizer).__name__, repr(backend.pre_tokenizer)
    if normalizer not in SHRINKS or "ByteLevel(" not in splits or DROPS.search(splits):
        return None
    added = tokenizer.added_tokens_decoder.values()
    if any(token.lstrip or token.rstrip for token in added):
        return None
    vocabulary = backend.get_vocab(with_added_tokens=False)
    # There a token is spelled with a character per byte.
    lengths = [*map(len, vocabulary), *(len(token.content.encode()) for token in added)]
    spelled = enumerate(_spellings())
    return TokenBytes(
        most=max(lengths) * SHRINKS[normalizer],
        dropped=bytes(byte for byte, character in spelled if character not in vocabulary),
    )


def _spellings() -> list[str]:
    """The character that spells each byte: itself where it can be seen, else one from U+0100 on."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]
