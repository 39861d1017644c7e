"""Virtual keys: who asks, and what they may."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.keys.authenticator import Authenticator
    from service.keys.manager import KeyManager
    from service.keys.principal import ANONYMOUS, Principal
    from service.keys.store import KeyStore, KeyStoreError, MemoryKeyStore, open_key_store

# Imported when asked for: the settings import this package for one small class.
_MODULES = {
    "ANONYMOUS": "principal",
    "Authenticator": "authenticator",
    "KeyManager": "manager",
    "KeyStore": "store",
    "KeyStoreError": "store",
    "MemoryKeyStore": "store",
    "Principal": "principal",
    "open_key_store": "store",
}

__all__ = [
    "ANONYMOUS",
    "Authenticator",
    "KeyManager",
    "KeyStore",
    "KeyStoreError",
    "MemoryKeyStore",
    "Principal",
    "open_key_store",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
