"""The tile table, its rule, its file, and the tuner with a clock of the test's own."""

import json
import math

import pytest

from llmrouter.moe.experts import Shape, Tile, Tiles, TileTable
from llmrouter.moe.experts.__main__ import SHAPES, TOKENS, main
from llmrouter.moe.experts._fused import most_blocks
from llmrouter.moe.experts._tiles import SHARED_MEMORY, candidates, invariant, rule
from llmrouter.moe.experts._tuner import tune

SHAPE = Shape(8, 256, 128, 2)


def square(size, **settings):
    tile = Tile(size, 64, 64, **settings)
    return Tiles(up=tile, down=tile)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("itemsize", [2, 4])
def test_the_rule_fits_the_shared_memory_at_every_size(shape, itemsize):
    for tokens in TOKENS:
        tiles = rule(shape, tokens, itemsize)
        assert tiles.up.shared_memory(itemsize, 2) <= SHARED_MEMORY
        assert tiles.down.shared_memory(itemsize, 1) <= SHARED_MEMORY
        assert tokens > 16 or tiles.up.block_m == 16


def test_tiles_of_the_deterministic_option_do_not_depend_on_tokens():
    assert invariant() == invariant()
    assert invariant(4).up.shared_memory(4, 2) <= SHARED_MEMORY


def test_a_number_of_tokens_takes_the_entry_at_or_below_it():
    table = TileTable({SHAPE.key: {1: square(16), 64: square(32), 1024: square(128)}})
    assert table.tiles(SHAPE, 9, 2) == square(16)
    assert table.tiles(SHAPE, 64, 2) == table.tiles(SHAPE, 1023, 2) == square(32)
    assert table.tiles(SHAPE, 9000, 2) == square(128)


def test_where_the_table_has_no_entry_the_rule_holds():
    table = TileTable({SHAPE.key: {1: square(16, stages=1)}})
    assert table.tiles(SHAPE, 17, 2) == rule(SHAPE, 17)  # a decode tile is no good for more than 16 tokens
    assert table.tiles(Shape(9, 256, 128, 2), 1, 2) == rule(SHAPE, 1)
    assert table.tiles(SHAPE, 1, 4) == rule(SHAPE, 1, 4)  # tuned with two bytes a value


def test_the_file_keeps_the_table(tmp_path):
    table = TileTable({SHAPE.key: {1: square(16), 512: square(64, group_m=4, warps=8, stages=2)}})
    path = tmp_path / "tiles.json"
    path.write_text(json.dumps({"device": "some GPU", **table.document()}))
    assert TileTable.load(path).document() == table.document()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "layout must be 1"),
        ('{"layout": 7}', "layout must be 1"),
        ('{"layout": 1, "tiles": {"E=8": {"64": {"up": {}}}}}', r"tiles\['E=8'\]\['64'\].*tune this shape anew"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, text, message):
    path = tmp_path / "tiles.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        TileTable.load(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_m": 24}, "block_m is 24; it must be a power of two"),
        ({"block_k": 8}, "block_k is 8"),
        ({"warps": 3}, "warps is 3"),
        ({"stages": 0}, "stages 0"),
    ],
)
def test_tiles_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Tile(**{"block_m": 16, "block_n": 16, "block_k": 16, **settings})


def test_tiles_of_both_products_have_the_same_rows():
    with pytest.raises(ValueError, match="up.block_m is 16 and down.block_m 32"):
        Tiles(up=Tile(16, 16, 16), down=Tile(32, 16, 16))


def test_the_grid_has_room_for_every_way_that_pairs_can_fall():
    for pairs in range(1, 12):
        for block in (1, 2, 4):
            for experts in (1, 2, 3):
                worst = max(sum(-(-count // block) for count in counts) for counts in falls(pairs, experts))
                assert most_blocks(pairs, experts, block) >= worst


def falls(pairs, experts):
    if experts == 1:
        return [(pairs,)]
    return [(first, *rest) for first in range(pairs + 1) for rest in falls(pairs - first, experts - 1)]


def test_the_tuner_finds_the_fastest_of_both_products():
    best_up, best_down = Tile(64, 128, 64, 8, 8, 3), Tile(64, 64, 128, 8, 4, 4)

    def measure(shape, tokens, tiles):
        if tiles.up.block_m == 128:
            return math.inf  # this GPU cannot run it
        return 3.0 - (tiles.up == best_up) - 0.5 * (tiles.down == best_down) - 0.1 * (tiles.up.block_m == 64)

    assert best_up in [tiles.up for tiles in candidates(decode=False)]
    table = tune([SHAPE], [64], measure)
    assert table.tiles(SHAPE, 64, 2) == Tiles(up=best_up, down=best_down)


def test_the_tuner_keeps_the_rule_where_nothing_is_faster():
    assert tune([SHAPE], [1, 64], lambda *_: 1.0).document()["tiles"] == {}


def test_tuning_without_a_gpu_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["tune", "--out", str(tmp_path / "tiles.json")]) == 2
    assert "needs a GPU" in capsys.readouterr().err
