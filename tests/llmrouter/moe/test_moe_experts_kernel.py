"""The Triton kernels: in Triton's interpreter against float64, compiled ahead of time for Hopper, on a GPU in bf16."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny_experts import exact, make_layer, make_model

from llmrouter.moe.experts import FusedExperts, Tile, Tiles, register_experts, swiglu_weights

if os.environ.get("LLMROUTER_NEEDS_TRITON"):
    import triton  # `make test-triton` has installed it: without it these tests fail
else:
    triton = pytest.importorskip(
        "triton", reason="triton is not installed (torch's CPU builds come without it): make test-triton"
    )

GPU = torch.cuda.is_available()
OLD_INTERPRETER = (
    tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9) and np.lib.NumpyVersion(np.__version__) >= "2.4.0"
)
interpreted = pytest.mark.skipif(
    GPU or OLD_INTERPRETER,
    reason="on a GPU the kernels are compiled" if GPU else "Triton's interpreter before 3.9 breaks with numpy 2.4",
)
on_gpu = pytest.mark.skipif(not GPU, reason="needs a GPU")

NARROW = Tiles(up=Tile(16, 16, 16, 2), down=Tile(16, 32, 16, 2))
TOLERANCE = {torch.float32: 5e-6, torch.float16: 4e-3}


@pytest.fixture(scope="module", autouse=True)
def kernels_are_of_the_expected_kind():
    from llmrouter.moe.experts import _kernels

    kind = type(_kernels.gate_up).__name__
    if kind != ("JITFunction" if GPU else "InterpretedFunction"):
        pytest.fail(f"kernels are {kind}: triton was imported before conftest.py chose its interpreter")


TILES = {"rule": None, "narrow": NARROW}
SHAPES = {
    "one token": (4, 32, 24, 2, 1),
    "the most that the decode path takes": (4, 40, 20, 2, 16),
    "one more": (4, 40, 20, 3, 17),
    "nothing is a multiple of anything": (5, 33, 17, 2, 40),
    "one expert a token": (3, 32, 16, 1, 30),
}
# The interpreter is slow: of shapes, tiles and types every two meet, and all three of them in the long trials.
PAIRS = [
    (shape, "rule" if (place + other) % 2 else "narrow", dtype)
    for place, shape in enumerate(SHAPES)
    for other, dtype in enumerate(TOLERANCE)
]


def holds(shape, tiles, dtype):
    layer = make_layer(*shape, dtype=dtype)
    output = FusedExperts()(*layer, tiles=TILES[tiles])
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), exact(*layer), atol=TOLERANCE[dtype], rtol=0)


@interpreted
@pytest.mark.parametrize(("shape", "tiles", "dtype"), PAIRS, ids=str)
def test_the_definition(shape, tiles, dtype):
    holds(SHAPES[shape], tiles, dtype)


@interpreted
@pytest.mark.soak
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("tiles", TILES)
@pytest.mark.parametrize("shape", [*SHAPES.values(), (8, 48, 40, 3, 16), (8, 48, 40, 3, 17)], ids=str)
def test_the_definition_in_every_combination(shape, tiles, dtype):
    holds(shape, tiles, dtype)


@interpreted
@pytest.mark.parametrize("tokens", [6, 24])
def test_skipped_and_repeated_experts(tokens):
    hidden, index, weights, layer = make_layer(8, 32, 24, 3, tokens, dtype=torch.float32)
    index[0, 1] = 8
    index[1, :] = torch.tensor([99, -1, 8])
    index[2, 2] = index[2, 0]
    index[3, :] = 5
    output = FusedExperts()(hidden, index, weights, layer)
    torch.testing.assert_close(output.double(), exact(hidden, index, weights, layer), atol=5e-6, rtol=0)
    assert not output[1].any()


@interpreted
def test_all_tokens_choose_one_expert():
    hidden, index, weights, layer = make_layer(8, 32, 24, 1, 50, dtype=torch.float32)
    index[:] = 7
    output = FusedExperts()(hidden, index, weights, layer, tiles=NARROW)
    torch.testing.assert_close(output.double(), exact(hidden, index, weights, layer), atol=5e-6, rtol=0)


@interpreted
def test_transposed_weights_and_int32_ids():
    hidden, index, weights, layer = make_layer(4, 32, 24, 2, 5, dtype=torch.float32)
    turned = swiglu_weights(
        layer.up.transpose(1, 2).contiguous().transpose(1, 2), layer.down.transpose(1, 2).contiguous().transpose(1, 2)
    )
    output = FusedExperts()(hidden, index.int(), weights, turned)
    torch.testing.assert_close(output.double(), exact(hidden, index, weights, layer), atol=5e-6, rtol=0)


@pytest.fixture
def rows_are_multiplied_alike(monkeypatch):
    """Let the interpreter multiply each row of a block in the same order: its BLAS takes the last rows in another."""
    from triton.runtime import interpreter

    def create_dot(self, left, right, added, input_precision, max_num_imprecise_acc):
        product = np.einsum("ik,kj->ij", left.data, right.data, dtype=added.data.dtype, optimize=False)
        return interpreter.TensorHandle(product + added.data, added.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@interpreted
@pytest.mark.usefixtures("rows_are_multiplied_alike")
def test_the_deterministic_option_gives_a_token_the_same_bits_in_any_batch():
    hidden, index, weights, layer = make_layer(4, 200, 150, 2, 40, dtype=torch.float32)
    fused = FusedExperts()
    together = fused(hidden, index, weights, layer, deterministic=True)
    for rows in ([0], [39], [5, 17, 3], list(range(20, 40))):
        assert torch.equal(fused(hidden[rows], index[rows], weights[rows], layer, deterministic=True), together[rows])


@interpreted
def test_a_model_through_the_kernels(monkeypatch):
    monkeypatch.setattr(FusedExperts, "usable", lambda self, hidden, weights, experts: experts.plain)
    register_experts()
    model = make_model("olmoe")
    ids = torch.randint(3, 97, (2, 4), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        model.set_experts_implementation("eager")
        eager = model(ids).logits
        model.set_experts_implementation("llmrouter")
        torch.testing.assert_close(model(ids).logits, eager, atol=1e-5, rtol=0)


def test_no_tokens():
    hidden, index, weights, layer = make_layer(4, 32, 24, 2, 1, dtype=torch.float32)
    assert FusedExperts()(hidden[:0], index[:0], weights[:0], layer).shape == (0, 32)


def test_shapes_that_do_not_belong_together_are_refused():
    hidden, index, weights, layer = make_layer(4, 32, 24, 2, 3, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"hidden has shape \(3, 16\); these experts take \(tokens, 32\)"):
        FusedExperts()(hidden[:, :16], index, weights, layer)
    with pytest.raises(ValueError, match=r"index has shape \(2, 2\)"):
        FusedExperts()(hidden, index[:2], weights, layer)


def check_for_hopper(folder, *runs):
    """Return what the command says of each run, (type, numbers of tokens); all in one process, whose start is dear."""
    script = "import sys; from llmrouter.moe.experts.__main__ import main\n" + "".join(
        f"print('run', flush=True); main(['check', '--shapes', 'olmoe-1b-7b', '--dtype', {dtype!r}, '--tokens', "
        f"*{[str(number) for number in tokens]!r}]) and sys.exit(1)\n"
        for dtype, *tokens in runs
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(folder)
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, env=environment, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("run\n")[1:]


def fit(said, kernels):
    sizes = [int(size) for size in re.findall(r"(\d+) bytes", said)]
    assert len(sizes) == kernels
    assert 0 < max(sizes) <= 227 * 1024


def test_the_kernels_compile_for_hopper_and_fit_its_shared_memory(tmp_path):
    narrow, wide = check_for_hopper(tmp_path, ("bf16", 1, 4096), ("fp32", 4096))
    fit(narrow, 3 + 4)  # one token needs no align
    assert "4096 gate_up: 131072 bytes of shared memory, warp-group products" in narrow
    fit(wide, 4)


@pytest.mark.soak
def test_more_kernels_compile_for_hopper_and_fit_its_shared_memory(tmp_path):
    for said in check_for_hopper(tmp_path, ("fp32", 1, 100, 200, 400), ("fp16", 1, 4096)):
        fit(said, 3 + 4 * said.count(" align:"))


@on_gpu
@pytest.mark.parametrize("tokens", [1, 16, 17, 300])
@pytest.mark.parametrize("deterministic", [False, True])
def test_bf16_on_a_gpu(tokens, deterministic):
    layer = make_layer(16, 256, 128, 4, tokens, dtype=torch.bfloat16, device="cuda")
    output = FusedExperts()(*layer, deterministic=deterministic).double().cpu()
    reference = exact(*layer)
    assert float((output - reference).norm() / reference.norm()) < 1e-2


@on_gpu
def test_same_bits_in_any_batch_on_a_gpu():
    hidden, index, weights, layer = make_layer(16, 256, 128, 4, 300, dtype=torch.bfloat16, device="cuda")
    fused = FusedExperts()
    together = fused(hidden, index, weights, layer, deterministic=True)
    for rows in ([0], [299], [5, 170, 3], list(range(100, 180))):
        assert torch.equal(fused(hidden[rows], index[rows], weights[rows], layer, deterministic=True), together[rows])
