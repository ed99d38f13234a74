"""A closer count of a prompt with tiktoken, where the configuration asks for it and its vocabulary is on this machine.

tiktoken fetches a vocabulary from the internet at its first use. A node does not: whoever wants the closer count provides the file in
tiktoken's cache (``TIKTOKEN_CACHE_DIR``) or installs a plug-in that ships it; else the bound by bytes stays, with one line in the log.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Final

from node.routing.weight import weigh_text
from shared_state.logs import get_logger

log = get_logger(__name__)

#: Vocabularies in the order of preference when the model's own is unknown or missing; an older one makes more tokens, not fewer.
_FALLBACKS: Final = ("o200k_base", "cl100k_base")
#: Counting this much takes about a millisecond; what lies beyond is weighed by its bytes.
COUNTED_BYTES: Final = 8 * 1024
#: What the JSON around the text does not make up for: the marks that a chat template adds.
_MARGIN_SHARE: Final = 16
_MARGIN_TOKENS: Final = 8


class Tokenizer:
    """Counts by one vocabulary, erring upward by a sixteenth.

    Args:
        encoding: a ``tiktoken.Encoding``.
    """

    def __init__(self, encoding: Any) -> None:
        self.name: str = encoding.name
        self._encode = encoding.encode_ordinary

    def count(self, text: bytes) -> int:
        """Tokens of a prompt in JSON."""
        tokens = len(self._encode(text[:COUNTED_BYTES].decode("utf-8", "ignore")))
        return tokens + tokens // _MARGIN_SHARE + _MARGIN_TOKENS + weigh_text(text[COUNTED_BYTES:])


@cache
def tokenizer_for(model: str) -> Tokenizer | None:
    """The tokenizer of a model by its upstream name; None if there is no vocabulary here, which is told once."""
    try:
        registry: Any = importlib.import_module("tiktoken.registry")
    except ImportError:
        log.warning(
            "tokenizer: tiktoken is not installed (pip install 'modelmesh[tiktoken]'); prompts are weighed by bytes",
            model=model,
        )
        return None
    for name in _names(model, registry.list_encoding_names()):
        encoding = _load(name)
        if encoding is not None:
            log.info("prompts are counted by tiktoken", model=model, encoding=name)
            return Tokenizer(encoding)
    log.warning(
        "tokenizer: no vocabulary of tiktoken on this machine; prompts are weighed by bytes", model=model
    )
    return None


def _names(model: str, known: list[str]) -> list[str]:
    """The model's own vocabulary first; plug-ins spell theirs with a suffix."""
    models: Any = importlib.import_module("tiktoken.model")
    wanted = dict.fromkeys(_FALLBACKS)
    with suppress(KeyError):
        wanted = {models.encoding_name_for_model(model): None, **wanted}
    return [name for start in wanted for name in known if name.startswith(start)]


@cache
def _load(name: str) -> Any:
    """The encoding if everything that it needs is here, else None."""
    try:
        with _without_network():
            return importlib.import_module("tiktoken.registry").get_encoding(name)
    except (OSError, ValueError):
        return None


@contextmanager
def _without_network() -> Iterator[None]:
    """tiktoken reads files, and fetches nothing."""
    loader: Any = importlib.import_module("tiktoken.load")
    read_file = loader.read_file

    def read_here(path: str) -> bytes:
        if "://" in path:
            raise FileNotFoundError(path)
        content: bytes = read_file(path)
        return content

    loader.read_file = read_here
    try:
        yield
    finally:
        loader.read_file = read_file
