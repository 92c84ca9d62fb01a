"""The benchmarks: every case is right at a small size, the command's errors, the reports."""

import json

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import report, roofline, suite, table, tune, worker
from benchmarks.case import Cost, Expected, WrongResult, agree
from benchmarks.library import Minidl, settings
from minidl.autograd import raw
from minidl.backend.cpu import choice

SMALL = suite.cases(small=True)
ROOF = {"gflops": 100.0, "gbytes": [[2**20, 160.0], [2**24, 80.0]]}


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_cases_are_right(case):
    """Each case builds, passes its check, and runs every phase that it has costs for."""
    work = case.build(Minidl())
    work.check()
    assert work.run.keys() == case.costs.keys()


def test_names_and_costs_are_those_of_the_full_suite():
    """Names are unique, and small cases are the full ones at other sizes."""
    full = suite.cases()
    assert [c.name for c in full] == [c.name for c in SMALL]
    assert len({c.name for c in full}) == len(full)
    limits = {c.name: roofline.limit(c.costs[phase], ROOF) for c in full for phase in c.costs}
    assert all(limit > 0 for name, limit in limits.items() if name != "scalar_chain_1000")


def test_a_wrong_element_is_seen():
    """One wrong element of a million is an error; rounding is not."""
    x = np.random.default_rng(0).standard_normal(10**6)
    agree("x", x.astype(np.float32), Expected(x))
    wrong = x.astype(np.float32)
    wrong[123] += 0.1
    with pytest.raises(WrongResult, match=r"^x is wrong: relative L2 error"):
        agree("x", wrong, Expected(x, 256))
    with pytest.raises(WrongResult, match="shape"):
        agree("x", wrong[:-1], Expected(x))
    with pytest.raises(WrongResult, match="nan"):
        agree("x", np.full(10**6, np.nan), Expected(x))


def test_list_names_every_case(capsys):
    """--list shows all, --only some, by name or family."""
    assert command.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(SMALL)
    assert command.main(["--list", "--only", "recurrent/|matmul"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--only (", "--only '(' is not a regular expression: missing )"),
        ("--only nothing", "--only 'nothing' matches no case; --list names them"),
        ("--device cuda", "CuPy is not installed"),
        ("--against missing.json", "--against missing.json: [Errno 2] No such file"),
        ("--json missing/a.json", "--json missing/a.json: no such folder"),
        ("--rounds 0", "--rounds must be at least 1"),
        ("--peer torch --peer-python missing", "--peer-python: [Errno 2] No such file"),
        ("--peer torch --peer-python /bin/false", "/bin/false has no PyTorch"),
    ],
)
def test_commands_that_cannot_run(arguments, message, capsys, tmp_path, monkeypatch):
    """One line says why, and the status is 2."""
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_damaged_report_is_refused(tmp_path, capsys):
    """--against takes reports only."""
    for text in ("{", "{}", "[]"):
        (tmp_path / "a.json").write_text(text)
        assert command.main(["--against", str(tmp_path / "a.json")]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def answers(times, wrong=()):
    """A stand-in for worker processes that takes times (ms) from a dictionary."""

    def run(library, case, seconds, interpreter):
        if seconds == "check":
            if case in wrong:
                raise command.Wrong(f"{case} is not timed: y is wrong")
            return {}
        value = times[library]
        figures = {"median": value, "p20": 0.9 * value, "p80": 1.2 * value, "count": 9}
        shared = {"first_s": 1.0, "peak_mb": 100.0, "others": times.get("others", 0.0)}
        phases = next(c.costs for c in SMALL if c.name == case)
        return {"phases": dict.fromkeys(phases, figures), "shared": shared}

    return run


@pytest.fixture
def made_up(monkeypatch):
    """Runs the command with made-up times, a made-up roofline and no PyTorch."""

    def run(arguments, times, wrong=()):
        monkeypatch.setattr(command, "worker", answers(times, wrong))
        monkeypatch.setattr(command, "peer_version", lambda interpreter: "2.0")
        monkeypatch.setattr(command, "measure_roofline", lambda: ROOF)
        return command.main(arguments)

    return run


TORCH = dict(zip(settings(images=True), (40.0, 30.0, 25.0, 35.0)))


def test_a_run_saves_and_sums_up(made_up, tmp_path, capsys):
    """Ratios are against the fastest setting, the scalar chain's against the default."""
    file = tmp_path / "a.json"
    arguments = ["--peer", "torch", "--rounds", "2", "--json", str(file)]
    assert made_up(arguments, {"minidl": 10.0, **TORCH}) == 0
    found = json.loads(file.read_text())
    assert report.ratio(found["lines"]["vgg3_cifar_b128 step"]) == 2.5
    assert report.ratio(found["lines"]["softmax_4096x512 fb"]) == 3.0
    assert report.ratio(found["lines"]["scalar_chain_1000 step"]) == 4.0
    shown = capsys.readouterr().out
    assert "2.50x torch-channels-last 25 ms" in shown
    assert "missed depthwise convolutions" in shown and "least 2.50x (bar 3.0)" in shown
    assert "met    whole steps" in shown and "peak memory of steps" in shown
    drawn = table.draw(found, "a.json")
    share = found["lines"]["vgg3_cifar_b128 step"]["limit_ms"] / 10.0
    shown = f"| vgg3_cifar_b128 | 10 ms | 25 ms | 2.50 | {share:.0%} flops | 100 / 100 |"
    assert shown in drawn and "| 2.50 | 0% |" not in drawn
    assert " fwd" not in drawn and "medians of 2 rounds" in drawn


def test_an_interrupted_run_keeps_what_it_has(made_up, tmp_path, capsys, monkeypatch):
    """Ctrl-C in a later case: the earlier lines are saved, the status is 130."""
    file, original = tmp_path / "a.json", command.run

    def interrupt(case, *rest):
        if case.name == "embedding_4096_of_8192x384":
            raise KeyboardInterrupt
        return original(case, *rest)

    monkeypatch.setattr(command, "run", interrupt)
    assert made_up(["--only", "rows/", "--save", str(file)], {"minidl": 1.0}) == 130
    assert "softmax_4096x512 fb" in json.loads(file.read_text())["lines"]
    assert "interrupted" in capsys.readouterr().err


def test_a_wrong_kernel_is_not_timed(made_up, tmp_path, capsys):
    """It is named, the others are timed, the status is 1."""
    file = tmp_path / "a.json"
    arguments = ["--only", "rows/", "--json", str(file)]
    assert made_up(arguments, {"minidl": 1.0}, wrong=["softmax_4096x512"]) == 1
    lines = json.loads(file.read_text())["lines"]
    assert "softmax_4096x512 fb" not in lines and "cross_entropy_4096x65 fb" in lines
    assert "softmax_4096x512 is not timed: y is wrong" in capsys.readouterr().err


def test_against_tells_what_moved(made_up, tmp_path, capsys):
    """Bands of p20 to p80 that are apart have moved; those that overlap have not."""
    old = tmp_path / "old.json"
    arguments = ["--only", "layer_norm", "--rounds", "3"]
    assert made_up([*arguments, "--save", str(old)], {"minidl": 10.0}) == 0
    capsys.readouterr()
    for now, said in ((11.0, "0 of 2 lines"), (20.0, "2.00x slower"), (5.0, "2.00x faster")):
        assert made_up([*arguments, "--against", str(old)], {"minidl": now}) == 0
        assert said in capsys.readouterr().out
    changed = json.loads(old.read_text()) | {"device": "another"}
    old.write_text(json.dumps(changed))
    made_up([*arguments, "--against", str(old)], {"minidl": 10.0})
    assert "not comparable: device was another" in capsys.readouterr().out


def test_crowded_lines_are_marked(made_up, capsys):
    """A line that shared the processors with other work says so."""
    assert made_up(["--only", "matmul"], {"minidl": 1.0, "others": 0.3}) == 0
    assert "2 of 2 lines (!) shared the processors" in capsys.readouterr().out
    with worker.Others() as others:
        sum(range(10**6))
    assert 0 <= others.share <= 1


def test_limits_take_the_bandwidth_of_the_working_set():
    """max(FLOPs / peak, bytes / bandwidth) of each pass, in milliseconds."""
    assert roofline.bandwidth(ROOF, 2**22) == pytest.approx(120e9)
    assert roofline.bandwidth(ROOF, 2**30) == 80e9
    assert roofline.limit([Cost(1e9, 8), Cost(0, 2**24)], ROOF) == pytest.approx(10 + 0.2097152)
    assert roofline.flops_bound([Cost(1e9, 8)], ROOF)


def test_the_roofline_is_measured():
    """Both rates are positive numbers, at a small size."""
    assert roofline.memory(1, 2**20, 0.0) > 1e7 and roofline.product(1, 64, 0.0) > 1e7


def test_a_worker_times_calls():
    """At least three repetitions, the percentiles in order."""
    found = worker.timed(lambda: None, 0.0, repeat=2)
    assert found["count"] == 3 and 0 <= found["p20"] <= found["median"] <= found["p80"]


def test_readme_shows_the_committed_report():
    """README's table is what the script draws from the newest report."""
    source, readme = table.newest(), (table.ROOT / "README.md").read_text()
    drawn = table.draw(json.loads(source.read_text()), source.name)
    assert table.replace(readme, drawn) == readme, "run: python -m benchmarks.table"


def test_tuning_finds_where_the_lines_cross(monkeypatch):
    """The limit that leads to the least time wins, the committed one within the noise."""
    contest = tune.Contest("product_by_numpy", "", "", False, [8, 16, 32, 64], lambda size: None)
    monkeypatch.setitem(choice.LIMITS, "product_by_numpy", 8)
    slow_start = [(1.0, 4.0), (2.0, 4.0), (4.0, 4.1), (8.0, 4.2)]
    assert tune.best(contest, slow_start) == 64
    monkeypatch.setitem(choice.LIMITS, "product_by_numpy", 32)
    assert tune.best(contest, slow_start) == 32
    always = contest._replace(inclusive=True)
    assert tune.best(always, [(2.0, 1.0)] * 4) == 4
    assert tune.best(contest, [(1.0, 2.0)] * 4) == 128


def test_tuning_runs_both_algorithms_of_every_limit(monkeypatch, capsys, tmp_path):
    """All contests run and are right for both algorithms; only --write writes, the same names."""
    before = dict(choice.LIMITS)
    assert [c.limit for c in tune.CONTESTS] == sorted(before, key=[*before].index)
    small = [c._replace(sizes=c.sizes[:2]) for c in tune.CONTESTS]
    monkeypatch.setattr(tune, "CONTESTS", small)
    monkeypatch.setattr(tune, "TURNS", 1)
    monkeypatch.setattr(tune, "TABLE", tmp_path / "choices.json")
    assert tune.main(["--seconds", "0"]) == 0
    assert choice.LIMITS == before and not [*tmp_path.iterdir()]
    assert all(f"{name}: " in capsys.readouterr().out for name in [*before][:1])
    assert tune.main(["--seconds", "0", "--write"]) == 0
    written = json.loads((tmp_path / "choices.json").read_text())
    assert written["limits"].keys() == before.keys()


@pytest.mark.parametrize("contest", tune.CONTESTS, ids=lambda c: c.limit)
def test_algorithms_agree(contest, monkeypatch):
    """Below and above its limit an operation gives the same numbers but for rounding."""
    found = []
    for forced in (tune.NEVER, 0):
        monkeypatch.setitem(choice.LIMITS, contest.limit, forced)
        found.append(np.array(raw(contest.build(contest.sizes[1])())))
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-4 * np.abs(found[0]).max())
