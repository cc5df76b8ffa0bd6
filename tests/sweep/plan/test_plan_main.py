"""A plan with a compiler of ours in the place of XLA's: what is tried, kept, refused and said."""

import contextlib
import dataclasses

import pytest

from jaxcomp.analysis.plan_page import printed
from jaxcomp.cli import main, overrides
from jaxcomp.config import ConfigError
from jaxcomp.sweep.plan import compile as compiler
from jaxcomp.sweep.plan import main as plans
from jaxcomp.sweep.plan.hlo import Collective
from jaxcomp.sweep.plan.layouts import candidates, ranked
from jaxcomp.sweep.plan.main import plan
from jaxcomp.sweep.plan.timing import Instruction, Part, Timing
from jaxcomp.sweep.plan.topology import GIB, slice_of

ONE = "configs/paper.py:family=qwen3,size=8B,ratio=16"


class FakeCompiler:
    """Uses `need` bytes over all chips together; refuses what does not fit a chip."""

    def __init__(self, need: float):
        self.need, self.calls = need, []

    def __call__(self, cfg, topology, layout, only_train):
        where = slice_of(topology)
        self.calls.append((cfg.compressor, cfg.memory.ratio, topology, layout))
        used = int(self.need / where.chips)
        if used > where.chip.hbm:
            return compiler.Outcome({}, "Used too much of hbm.")
        moved = Collective("all-gather", 8, 4, 2, True, ("bf16[4]",), "layers")
        parts = [Part("matrix products", "decoder", "forward", 1.5, 0.0)]
        parts += [Part("attention", "decoder", "backward", 0.5, 0.25)]
        long = Instruction("f.1", *parts[0][:4], 4, "layers/dot", "models/block.py:3")
        step = compiler.Program(used, 0, 0, 0, 1.0, [moved], Timing(parts, [long]))
        names = ("train",) if only_train else ("train", "compress", "prefill", "decode")
        return compiler.Outcome(dict.fromkeys(names, step), "")


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXCOMP_CACHE", str(tmp_path))
    return overrides.load


def _row(text):
    return next(line for line in text.splitlines() if line.startswith("| qwen3"))


def quiet(_):
    pass


def test_each_setup_takes_the_first_slice_that_holds_it(load):
    fake = FakeCompiler(200 * GIB)
    names = ["v5e:2x4", "v5e:4x4", "v5p:4x4x4"]
    (row,) = plan(load(ONE), names, compile=fake, out=quiet)
    assert row.where.name == "v5e:4x4"
    assert not row.failure
    assert row.programs["train"].used == 200 * GIB // 16


def test_what_fits_nowhere_has_a_reason_and_the_smallest_slice_that_does(load):
    rows = plan(load(ONE), ["v5e:2x4"], compile=FakeCompiler(200 * GIB), out=quiet)
    text = printed(rows, None)
    assert rows[0].instead == "v5e:4x4"
    assert "Used too much of hbm.; the smallest slice that does: v5e:4x4" in text
    assert "0 of 1 setup fit" in text


def test_what_is_compiled_is_not_compiled_again(load):
    cfg, fake = load("configs/paper.py:family=llama,size=1B"), FakeCompiler(90 * GIB)
    first = plan(cfg, ["v5e:4x4"], compile=fake, out=quiet)
    assert len(fake.calls) == 3
    assert plan(cfg, ["v5e:4x4"], compile=fake, out=quiet) == first
    assert len(fake.calls) == 3
    longer = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, target=400))
    plan(longer, ["v5e:4x4"], compile=fake, out=quiet)
    assert len(fake.calls) == 6


@pytest.mark.parametrize("content", ["", "{", "[]", '{"programs": 1}', '[{"x": [1]}, ""]'])
def test_a_damaged_file_of_the_cache_is_said_to_be_one_and_made_anew(
    load, tmp_path, caplog, content
):
    cfg, fake = load("configs/paper.py:family=llama,size=1B"), FakeCompiler(90 * GIB)
    first = plan(cfg, ["v5e:4x4"], compile=fake, out=quiet)
    for file in tmp_path.glob("plan/*.json"):
        file.write_text(content)
    assert plan(cfg, ["v5e:4x4"], compile=fake, out=quiet) == first
    assert len(fake.calls) == 6
    assert caplog.text.count("this file of the cache is damaged") == 3


def test_at_most_two_layouts_are_compiled(load):
    fake = FakeCompiler(1e15)
    plan(load(ONE), ["v5p:4x4x4"], compile=fake, out=quiet)
    tried = [layout for *_, topology, layout in fake.calls if topology == "v5p:4x4x4"]
    assert len(tried) == len(set(tried)) == 2


@pytest.mark.parametrize(("room", "rows"), [(5, 4), (3, 2), (1, 1)])
@pytest.mark.parametrize(("gain", "taken"), [(1.0, True), (0.0, False)])
def test_micro_batches_are_as_few_as_fit_and_gain(load, room, rows, gain, taken):
    """A chip has room for so many examples at a time."""
    cfg = load("configs/paper.py:family=qwen3,size=0.6B,ratio=16")
    first = candidates(cfg, slice_of("v5e:2x2"))[0]
    assert first.accumulate == 128
    used = int(slice_of("v5e:2x2").chip.hbm / room)

    def compile(cfg, topology, layout, only_train):
        part = Part("matrix products", "decoder", "forward", 1 + gain * layout.accumulate, 0.0)
        program = compiler.Program(used * layout.rows(cfg), 0, 0, 0, 1.0, [], Timing([part], []))
        return compiler.Outcome(
            {"train": program} | ({} if only_train else {"decode": program}), ""
        )

    (row,) = plan(cfg, ["v5e:2x2"], compile=compile, out=quiet)
    assert row.layout == first._replace(accumulate=128 // (rows if taken else 1))
    assert set(row.programs) == {"train", "decode"}


@pytest.mark.parametrize("topology", ["v5e:2x2", "v5e:4x4", "v6e:8x8", "v5p:4x4x4"])
@pytest.mark.parametrize("size", ["0.6B", "8B", "32B"])
def test_layouts_divide_what_they_cut(load, topology, size):
    cfg = load(f"configs/paper.py:family=qwen3,size={size},ratio=4")
    where = slice_of(topology)
    for found in ranked(cfg, where):
        replica, fsdp, tp = found.layout.mesh
        assert replica * fsdp * tp == where.chips
        assert found.layout.rows(cfg) * replica * fsdp * found.layout.accumulate == 256
        assert cfg.decoder.model.num_key_value_heads % tp == 0
    assert len(set(candidates(cfg, where))) <= 2


def test_a_batch_that_no_mesh_divides_is_refused_before_compiling(load):
    cfg = overrides.override(load(ONE), "train.optim.batch", "250")
    fake = FakeCompiler(0)
    with pytest.raises(ConfigError, match=r"no mesh of 64 chips divides the batch of 250"):
        plan(cfg, ["v5e:2x2", "v5p:4x4x4"], compile=fake, out=quiet)
    assert not fake.calls


def test_a_gpu_is_planned_on_paper_and_says_so(load):
    rows = plan(load(ONE), ["h100:8"], compile=FakeCompiler(0), out=quiet)
    text = printed(rows, None)
    assert "not compiled" in text
    assert f"| ≥ {rows[0].roofline.seconds:.3f} | ≤ " in text
    assert "Where the time goes" not in text
    assert not rows[0].programs


def test_price_and_hours_follow_from_the_compilers_time(load):
    rows = plan(load(ONE), ["v5p:4x4x4"], compile=FakeCompiler(1e12), out=quiet)
    text = printed(rows, 2.0)
    cells = [c.strip() for c in _row(text).split("|")]
    step, hours, price = float(cells[12]), *(float(c.replace(",", "")) for c in cells[15:17])
    assert step == 2.0
    assert hours == pytest.approx(34_688 * step * 64 / 3600, rel=0.01)
    assert price == pytest.approx(2 * hours, rel=0.01)


def test_the_time_is_shown_by_kind_by_tower_and_by_instruction(load):
    rows = plan(load(ONE), ["v5p:4x4x4"], compile=FakeCompiler(1e12), out=quiet)
    text = printed(rows, None)
    zeros = " | 0.0000" * 5
    assert f"| 1.5000 | 0.5000{zeros} | 2.0000 | 0.2500 |" in text
    assert f"| decoder | backward | 0.0000 | 0.5000{zeros} | 0.5000 | 0.2500 |" in text
    assert "| layers/dot | models/block.py:3 | decoder, forward | 4 | 1.5000 | 75.0% |" in text


def test_exit_code_says_whether_all_fit(load, monkeypatch, tmp_path, capsys):
    fake = FakeCompiler(200 * GIB)
    monkeypatch.setattr(plans, "_own_process", lambda: contextlib.nullcontext(fake))
    monkeypatch.setattr(compiler, "require", lambda: None)
    table_file = tmp_path / "plan.md"
    command = ["plan", f"--config={ONE}"]
    assert main.main([*command, "--topology=v5e:4x4", f"--out={table_file}"]) == 0
    assert table_file.read_text() in capsys.readouterr().out
    page = (tmp_path / "plan.html").read_text()
    assert "1 of 1 setup fit. In all " in page
    for words in ("Memory by part", "Time by part", ">USD</th>", "waited for"):
        assert words in page
    assert main.main([*command, "--topology=v5e:2x4"]) == 1
