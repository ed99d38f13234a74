"""``modelmesh.encrypted-file.v1``: one file, AES-256-GCM, under a key or a passphrase that is kept elsewhere.

The file is JSON: ``version``, ``algorithm``, ``salt`` and ``data``. The first three are authenticated with the data, so a file whose head was
changed does not open. A passphrase becomes a key by PBKDF2-HMAC-SHA256 in 600,000 rounds. There is no weaker way for
machines without the library: they are told what to install.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from shared_state.config.secrets import SecretsConfig
from shared_state.errors import SecretStoreError
from shared_state.secret_stores.base import load_sdk, require
from shared_state.secret_stores.files import read_file, sole_writer, write_file

_ID: Final = "modelmesh.encrypted-file.v1"
_VERSION: Final = 1
_ALGORITHM: Final = "AES-256-GCM"
_ROUNDS: Final = 600_000
_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_KEY_DIGITS: Final = 64
_DIGITS: Final = frozenset("0123456789abcdefABCDEF")


class _Head(NamedTuple):
    """What stands in front of the data, in the clear; an empty salt means that no passphrase is involved."""

    version: int
    algorithm: str
    salt: str

    @property
    def authenticated(self) -> bytes:
        return json.dumps(self._asdict(), sort_keys=True).encode()


class EncryptedFileStore:
    """A file that was opened when the store was; one that is not there holds nothing.

    Args:
        key: 64 hex digits.
        passphrase: used where there is no key.
    """

    def __init__(self, *, path: str, key: str | None = None, passphrase: str | None = None) -> None:
        module, package = "cryptography.hazmat.primitives.ciphers.aead", "cryptography"
        self._cipher: Any = load_sdk(module, package=package, extra="encrypted-file", store=_ID).AESGCM
        self._path = Path(path)
        self._key = key
        self._passphrase = passphrase
        self._derived: dict[str, bytes] = {}
        self._values = self._read()

    def get(self, name: str) -> str | None:
        return self._values.get(name)

    def describe(self, name: str) -> str:
        return f"{self._path} holds no {name}" if self._path.exists() else f"there is no file {self._path}"

    def names(self) -> list[str]:
        return sorted(self._values)

    def put(self, values: Mapping[str, str]) -> None:
        with sole_writer(self._path):
            merged = {**self._read(), **values}  # never over a file that this key does not open
            write_file(self._path, self._seal(merged))
            self._values = merged

    def _read(self) -> dict[str, str]:
        text = read_file(self._path)
        return {} if text is None else self._open(text)

    def _open(self, text: str) -> dict[str, str]:
        head, data = _parse(text, self._path)
        plain = None
        try:
            cipher = self._cipher(self._key_for(head.salt))
            plain = cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], head.authenticated)
        except SecretStoreError:
            raise
        except Exception:
            pass
        if plain is None:
            raise SecretStoreError(
                f"{self._path} does not open: the key or passphrase is another one, or the file was changed",
                key="path",
            )
        return dict(json.loads(plain))

    def _seal(self, values: Mapping[str, str]) -> str:
        """A fresh salt and nonce each time: the same content never looks the same."""
        salt = "" if self._key is not None else base64.b64encode(os.urandom(_SALT_BYTES)).decode()
        head, nonce = _Head(_VERSION, _ALGORITHM, salt), os.urandom(_NONCE_BYTES)
        plain = json.dumps(dict(values), ensure_ascii=False).encode()
        sealed = self._cipher(self._key_for(salt)).encrypt(nonce, plain, head.authenticated)
        data = base64.b64encode(nonce + sealed).decode()
        return json.dumps({**head._asdict(), "data": data}, indent=2) + "\n"

    def _key_for(self, salt: str) -> bytes:
        if not salt:
            if self._key is None:
                raise SecretStoreError(
                    f"{self._path} was sealed with an encryption_key, not with a passphrase",
                    key="encryption_key",
                )
            return bytes.fromhex(self._key)
        if self._passphrase is None:
            raise SecretStoreError(
                f"{self._path} was sealed with a passphrase, not with an encryption_key", key="passphrase"
            )
        if salt not in self._derived:
            raw = base64.b64decode(salt)
            self._derived[salt] = hashlib.pbkdf2_hmac("sha256", self._passphrase.encode(), raw, _ROUNDS)
        return self._derived[salt]


def open_store(config: SecretsConfig, environ: Mapping[str, str]) -> EncryptedFileStore:
    """The store of a configuration.

    Raises:
        SecretStoreError: the file does not open, or there is nothing to open it with.
    """
    require(config, "path")
    key, passphrase = (
        value.get_secret_value() if value is not None else None
        for value in (config.encryption_key, config.passphrase)
    )
    given = [
        name for name in ("encryption_key", "key_file", "passphrase") if getattr(config, name) is not None
    ]
    if len(given) != 1:
        told = f"are given together: {', '.join(given)}" if given else "none is given"
        raise SecretStoreError(f"needs one of encryption_key, key_file and passphrase; {told}", key="store")
    if config.key_file is not None:
        key = (read_file(Path(config.key_file)) or "").strip()
    if key is not None and not (len(key) == _KEY_DIGITS and set(key) <= _DIGITS):
        raise SecretStoreError(
            f"must be {_KEY_DIGITS} hex digits: `openssl rand -hex 32` makes some", key=given[0]
        )
    if passphrase == "":
        raise SecretStoreError("must not be empty", key="passphrase")
    return EncryptedFileStore(path=config.path, key=key, passphrase=passphrase)


def _parse(text: str, path: Path) -> tuple[_Head, bytes]:
    fault = "is no encrypted file of secrets"
    try:
        raw = json.loads(text)
        head = _Head(raw["version"], raw["algorithm"], raw["salt"])
        base64.b64decode(head.salt, validate=True)
        data = base64.b64decode(raw["data"], validate=True)
        if (head.version, head.algorithm) == (_VERSION, _ALGORITHM):
            return head, data
        fault = (
            f"is of version {head.version!r}, {head.algorithm!r}; this release opens {_VERSION}, {_ALGORITHM}"
        )
    except (ValueError, KeyError, TypeError, binascii.Error):
        pass
    raise SecretStoreError(f"{path} {fault}", key="path")
