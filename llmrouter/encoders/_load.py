"""Encoders by name, as configuration files and command lines write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from llmrouter._files import read_json_object
from llmrouter.encoders._base import Encoder
from llmrouter.encoders._sources import MINILM
from llmrouter.exceptions import ConfigError, EncoderError
from llmrouter.registry import available, create, parse_spec

_SENTENCE_TRANSFORMERS = "sentence-transformers"


def load_encoder(name: str | Path = "static", **settings: Any) -> Encoder:
    """Return the encoder that `name` stands for.

    Parameters
    ----------
    name : str or Path
        One of

        - ``static`` (or another registered name), with settings if wanted: ``static:max_windows=4``,
          ``onnx:folder=DIR``;
        - ``minilm``: all-MiniLM-L6-v2 by sentence-transformers;
        - a folder: a static table, an ONNX export, a projection head or a sentence-transformers model, as its
          ``config.json`` says;
        - a hub id with its owner, ``owner/model``.
    **settings
        Given to the constructor; they come before those in `name`.

    Raises
    ------
    ConfigError
        If the name or a setting is unknown.
    EncoderError
        If there is no such folder, or the model cannot be had.
    MissingExtraError
        If the encoder needs a package that is not installed.
    """
    if isinstance(name, Path):
        return _from_folder(name, settings)
    short, parameters = parse_spec(name)
    if short == MINILM or short in available("encoder"):
        return _by_name(short, {**parameters, **settings})
    if name.strip() and _expanded(Path(name)).is_dir():
        return _from_folder(Path(name), settings)
    if name.startswith((".", "/", "~")):
        raise EncoderError(f"there is no encoder folder {name}")
    if "/" not in short:
        raise ConfigError(
            f"unknown encoder {short!r}; one of {', '.join([*available('encoder'), MINILM])}, a folder, "
            "or a hub id like owner/model"
        )
    return _by_name(_SENTENCE_TRANSFORMERS, {"model": short, **parameters, **settings})


def _by_name(name: str, settings: dict[str, Any]) -> Encoder:
    if name == MINILM:
        name, settings = _SENTENCE_TRANSFORMERS, {"model": MINILM, **settings}
    if name == "onnx" and "folder" not in settings:
        raise ConfigError(
            "the onnx encoder needs a folder: onnx:folder=DIR; make one with python -m training.export_onnx --out DIR"
        )
    return cast(Encoder, create("encoder", name, **settings))


def _expanded(folder: Path) -> Path:
    try:
        return folder.expanduser()
    except RuntimeError:  # there is no such user
        return folder


def _from_folder(folder: Path, settings: dict[str, Any]) -> Encoder:
    folder = _expanded(folder)
    if not folder.is_dir():
        raise EncoderError(f"there is no encoder folder {folder}")
    # An exported folder says what it is; a sentence-transformers model has a config.json without `kind`, or none.
    kind = read_json_object(folder / "config.json").get("kind") if (folder / "config.json").exists() else None
    if kind == "static":
        return _by_name("static", {"path": folder, **settings})
    if kind == "head":
        return _by_name("head", {"folder": folder, **settings})
    if kind == "onnx":
        return _by_name("onnx", {"folder": folder, **settings})
    return _by_name(_SENTENCE_TRANSFORMERS, {"model": folder, **settings})
