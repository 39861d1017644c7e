"""Hold what a run of ``training.contrastive routerdc`` exported to the model that was trained.

``python -m training.contrastive.served --run DIR --data DIR``

The fine-tuned transformer embeds prompts in torch, here. The exported encoder (ONNX) and the router (safetensors) embed
and route the same prompts in another process, in which torch, transformers and sentence-transformers cannot be
imported. Vectors and cosines must agree within 1e-4; choices may then differ only where two models' cosines are closer
than that.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from llmrouter._files import read_json_object
from llmrouter.encoders import encode_cached, load_encoder
from llmrouter.exceptions import EncoderError
from llmrouter.outcomes import load_table
from llmrouter.registry import resolve
from llmrouter.types import FloatArray

MOST_DIFFERENCE = 1e-4
_WITHOUT_TORCH = """
import json, sys
for name in ("torch", "transformers", "sentence_transformers"):
    sys.modules[name] = None  # importing it is an error
from pathlib import Path
import numpy as np
from llmrouter.encoders import load_encoder
from training.contrastive.served import load_router
run, texts = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
X = load_encoder(run / "encoder").encode(texts)
router = load_router(run)
np.savez(sys.argv[3], vectors=X, cosines=router.similarity(X), quality=router.predict(X))
"""


def load_router(run: Path) -> Any:
    """Return the calibrated router of a finished run's folder; needs no torch."""
    described = read_json_object(run / "router.json")
    return resolve("router", described["name"]).from_state(load_file(run / "router.safetensors"), described["values"])


def trained_estimates(run: Path, texts: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """Return cosines and calibrated quality of texts by a finished run, as it is served, each (n, m)."""
    X = encode_cached(load_encoder(run / "encoder"), texts)
    router = load_router(run)
    return router.similarity(X), router.predict(X)


def served_without_torch(run: Path, texts: Sequence[str]) -> dict[str, FloatArray]:
    """Return ``vectors`` (n, D), ``cosines`` and ``quality`` (n, m) of texts, from a process that has no torch.

    Raises
    ------
    EncoderError
        If that process fails; the message ends with what it said.
    """
    with tempfile.TemporaryDirectory() as temporary:
        given, answer = Path(temporary) / "texts.json", Path(temporary) / "answer.npz"
        given.write_text(json.dumps(list(texts)), encoding="utf-8")
        command = [sys.executable, "-c", _WITHOUT_TORCH, str(run), str(given), str(answer)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own program
        if done.returncode:
            raise EncoderError(f"{run} cannot be served without torch: {done.stderr[-500:]}")
        with np.load(answer) as arrays:
            return dict(arrays)


def compare(run: Path, texts: Sequence[str]) -> dict[str, float]:
    """Return the largest differences between the trained model in torch and what is served without it.

    Raises
    ------
    EncoderError
        If vectors or cosines differ by more than 1e-4.
    """
    from llmrouter.encoders import SentenceTransformersEncoder

    router = load_router(run)
    vectors = SentenceTransformersEncoder(run / "weights", device="cpu").encode(texts)
    cosines, quality = router.similarity(vectors), router.predict(vectors)
    served = served_without_torch(run, texts)
    found = {
        "prompts": float(len(texts)),
        "vectors": float(np.abs(vectors - served["vectors"]).max()),
        "cosines": float(np.abs(cosines - served["cosines"]).max()),
        "quality": float(np.abs(quality - served["quality"]).max()),
        "other_choices": float((cosines.argmax(axis=1) != served["cosines"].argmax(axis=1)).sum()),
    }
    if max(found["vectors"], found["cosines"]) > MOST_DIFFERENCE:
        raise EncoderError(
            f"{run}: vectors differ by {found['vectors']:.1e} and cosines by {found['cosines']:.1e}, more than "
            f"{MOST_DIFFERENCE:.0e}; export the run again"
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set; its train prompts are used")
    parser.add_argument("--prompts", type=int, default=200, help="prompts compared, drawn by seed 0 (default: 200)")
    chosen = parser.parse_args(arguments)
    table = load_table(chosen.data).split("train")
    rows = np.sort(np.random.default_rng(0).permutation(len(table))[: chosen.prompts])
    print(json.dumps(compare(chosen.run, table.select(rows).router_texts())))


if __name__ == "__main__":
    main()
