"""Work keeps finished blocks on disk, and uses those of the same key, settings and positions."""

import numpy as np
import pytest

from pvae import Evaluation, PvaeError
from pvae.evaluation.work import FOLDER, Work, half_done


def test_blocks_of_other_work_are_not_taken(tmp_path, capsys):
    blocks = [np.arange(2), np.arange(2, 4)]

    def half(block):
        if block[0]:
            raise PvaeError("stop here")
        return {"x": block * 1.0}

    with pytest.raises(PvaeError, match="stop here"), Work(tmp_path, {"seed": 0}, False) as work:
        work.map("a", blocks, half)
    assert half_done(tmp_path) == 1

    def never(block):
        assert block[0], "the first block was kept"
        return {"x": block * 1.0}

    with Work(tmp_path, {"seed": 0}, False) as work:
        assert [r["x"].tolist() for r in work.map("a", blocks, never)] == [[0, 1], [2, 3]]
    with Work(tmp_path, {"seed": 1}, False):
        assert "starting again" in capsys.readouterr().out
        assert half_done(tmp_path) == 0
        with pytest.raises(PvaeError, match=r"half done \(0 blocks"):
            Evaluation.load(tmp_path)
    assert not (tmp_path / FOLDER).exists()  # it holds no block


def test_blocks_of_other_settings_are_not_taken(tmp_path):
    work = Work(tmp_path, {}, False)
    work.settings = {"num_temperatures": 10}
    work.map("AIS", [np.arange(3)], lambda block: {"x": block})
    work.settings = {"num_temperatures": 20}
    assert work.map("AIS", [np.arange(3)], lambda block: {"x": block + 1})[0]["x"][0] == 1
    work.settings = {"num_temperatures": 10}
    assert work.map("AIS", [np.arange(3)], lambda block: {"x": block + 2})[0]["x"][0] == 0
    assert work.map("AIS", [np.arange(2)], lambda block: {"x": block + 3})[0]["x"][0] == 3


def test_a_damaged_block_is_computed_again(tmp_path):
    work = Work(tmp_path, {}, False)
    work.map("a", [np.arange(3)], lambda block: {"x": block})
    (path,) = (tmp_path / FOLDER).glob("*.npz")
    path.write_bytes(path.read_bytes()[:40])
    assert work.map("a", [np.arange(3)], lambda block: {"x": block + 1})[0]["x"].tolist() == [
        1,
        2,
        3,
    ]


def test_the_bar_moves_within_a_block():
    work = Work(None, {}, False)
    seen = []

    def compute(block):
        tick = work.ticks(10)
        for _ in range(10):
            tick()
            seen.append(work._bar.n)
        return {"x": block}

    class Bar:
        n = 0

        def __init__(self, **_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, by):
            self.n += by

    import pvae.evaluation.work as module

    module_bar, module.tqdm = module.tqdm, Bar
    try:
        work.map("AIS", [np.arange(5), np.arange(4)], compute)
    finally:
        module.tqdm = module_bar
    assert seen[:10] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert seen[-1] == work._bar.n == 9
