"""docs/EXTENDING.md runs as written, its variants pass the conformance suites, and a broken plugin is one line.

Properties: each example has at most 40 lines and its command succeeds from a folder of its own; a plugin's regime, rule,
source and optimizer hold what the built-in ones hold; plugins change the hash of the cells that list them and of no other.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from src.cells.resolve import resolve
from src.config import cell_hash, compose, parse
from src.config.command import command
from src.config.serialize import to_mapping
from src.errors import ConfigError
from src.stopping.rule import StoppingRule
from src.sweep import __main__ as sweep
from tests.command import Command
from tests.data.test_image_folder import save_image
from tests.regimes import test_conformance as conformance
from tests.training.cells import differences, executed, tiny, with_replicas

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "EXTENDING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n# (\w+\.py)\n(.*?)```\n```bash\n(.*?)\n```", PAGE, re.DOTALL)
EXAMPLES = {name: (code, line) for name, code, line in BLOCKS}


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A folder with the page's files."""
    for name, (code, _) in EXAMPLES.items():
        (tmp_path / name).write_text(f"# {name}\n{code}", encoding="utf-8")
    return tmp_path


def test_the_page_shows_one_short_example_of_each_kind() -> None:
    assert list(EXAMPLES) == ["my_regime.py", "my_source.py", "my_arch.py", "my_rule.py"]
    assert all(code.count("\n") <= 40 for code, _ in EXAMPLES.values())


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_command_runs_as_written(
    name: str, lab: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(lab)
    python, option, module, *words = shlex.split(EXAMPLES[name][1])
    assert (python, option, module) == ("python", "-m", "src.sweep")
    done = Command("sweep", sweep.main, monkeypatch, capsys)(*words)
    assert done.code == 0, done.out + done.err
    results = list(lab.glob("multirun/*/cells/*/*/result.json"))
    assert len(results) == (8 if name == "my_regime.py" else 4)


def test_a_transform_of_ones_own_changes_what_a_source_reads(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(from dataclasses.*?class Prepared.*?)```", PAGE, re.DOTALL)
    (tmp_path / "prepared.py").write_text(block)
    for name in ("old", "new"):
        for kind in ("cat", "dog"):
            for number in range(6):
                save_image(tmp_path / name / kind / f"{number}.png", (number, 0, 0), (60, 50))
    words = [f"plugins=[{tmp_path / 'prepared.py'}]", "data=prepared", "arch=cnn", f"data.path={tmp_path / 'old'}"]
    cell = resolve(compose([*words, f"data.path2={tmp_path / 'new'}", "seeds=1"]))
    assert cell.streams.source.bank.input_shape == (3, 32, 32)
    assert cell.streams.source.later[0].bank.input_shape == (3, 32, 32)


OPTIMIZER = """
from dataclasses import dataclass

from src.optimizers import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class Rmsprop(OptimizerConfig):
    alpha: float = 0.9

    def build(self, parameters, *, lr, foreach):
        from torch.optim import RMSprop

        return RMSprop(parameters, lr=lr, alpha=self.alpha, weight_decay=self.weight_decay, foreach=foreach)


OPTIMIZERS = {"rmsprop": Rmsprop}
"""
PLUGINS = {
    "source": ("my_source.py", "data=spirals"),
    "optimizer": ("my_optimizer.py", "optimizer=rmsprop", "optimizer.lr=0.01"),
}


@pytest.fixture
def _ragged(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the conformance suite train on a plugin's source with a plugin's optimizer."""
    (lab / "my_optimizer.py").write_text(OPTIMIZER)
    files = ",".join(str(lab / file) for file, *_ in PLUGINS.values())
    words = [word for _, *words in PLUGINS.values() for word in words]
    monkeypatch.setattr(conformance, "RAGGED", (*conformance.RAGGED, f"plugins=[{files}]", *words))


@pytest.mark.parametrize("rule", conformance.RULES)
@pytest.mark.usefixtures("_ragged")
def test_every_regime_and_rule_takes_a_source_and_an_optimizer(rule: str) -> None:
    conformance.test_training_follows_the_plan_and_reads_no_test_set(rule)


@pytest.mark.usefixtures("_ragged")
def test_a_stage_draws_from_its_mixture_of_a_plugins_source_alone() -> None:
    conformance.test_a_stage_draws_from_its_mixture_alone()


@pytest.mark.parametrize("kind", PLUGINS)
def test_a_source_and_an_optimizer_give_the_same_bits_alone_and_in_a_group(kind: str, lab: Path) -> None:
    (lab / "my_optimizer.py").write_text(OPTIMIZER)
    file, *words = PLUGINS[kind]
    keeping = "regimes=[{sequential: {reset_optimizer: false}},combined]"
    config = tiny(keeping, "seeds=3", f"plugins=[{lab / file}]", *words)
    plan, together = executed(config)
    _, alone = executed(with_replicas(config, 1), plan=plan)
    assert {result.ledger.group for result in together.results.values()} == {3}
    for key, result in together.results.items():
        assert differences(result, alone.results[key]) == [], plan.nodes[key].stage


@pytest.mark.parametrize("rule", conformance.RULES)
def test_the_regime_trains_as_planned_under_every_rule(rule: str, lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "ALL", "regimes=[alternate]")
    monkeypatch.setattr(conformance, "RAGGED", (*conformance.RAGGED, f"plugins=[{lab / 'my_regime.py'}]"))
    conformance.test_training_follows_the_plan_and_reads_no_test_set(rule)


def test_the_stopping_rule_ends_stages_by_its_measurement(lab: Path) -> None:
    rule = ("stopping=target", "stopping.accuracy=0.2", "stopping.max_epochs=6")
    config = tiny(conformance.ALL, "seeds=1", f"plugins=[{lab / 'my_rule.py'}]", *rule)
    plan, execution = executed(config)
    assert isinstance(config.stopping, StoppingRule)
    assert not execution.failures
    trained = {key: r.ledger for key, r in execution.results.items() if plan.nodes[key].length.updates}
    assert "tolerance" in {ledger.stopped_by for ledger in trained.values()} <= {"tolerance", "cap"}
    for key, ledger in trained.items():
        assert bool(ledger.converged) == (ledger.stopped_by == "tolerance")
        assert ledger.converged or ledger.updates == plan.nodes[key].length.updates


def test_plugins_change_the_hash_of_their_cells_alone_and_pin_their_content(lab: Path) -> None:
    file = lab / "my_arch.py"
    config = compose([f"plugins=[{file}]", "arch=residual"])
    assert cell_hash(config, "x") != cell_hash(compose(), "x")
    assert resolve(config).streams.n_outputs == 10
    assert compose(shlex.split(command(config))[3:]).arch == config.arch
    assert parse(to_mapping(config)) == config
    file.write_text(file.read_text().replace("width: int = 16", "width: int = 8"))
    with pytest.raises(ConfigError, match="has changed"):
        parse(to_mapping(config))
    edited = compose([f"plugins=[{file}]", "arch=residual", "arch.width=16"])
    assert cell_hash(edited, "x") != cell_hash(config, "x"), "equal settings of another version"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("1 / 0", "cannot be loaded (ZeroDivisionError"),
        ("def broken(:", "cannot be loaded (SyntaxError"),
        ("x = 1", "and no nn.Module; define one"),
        ("REGIMES = [1]", "must be a dictionary"),
        ("REGIMES = {'mine': 3}", "must be a function"),
        ("def f(n_parts, *, a): ...\nREGIMES = {'mine': f}", "needs a default for a"),
        ("def f(n_parts): ...\nREGIMES = {'sequential': f}", "regime=sequential exists already"),
        ("class A: ...\nARCHITECTURES = {'mine': A}", "must be a class that derives from"),
        (
            "from src.models.architecture import Architecture\nclass A(Architecture): ...\nARCHITECTURES = {'mine': A}",
            "must define network",
        ),
    ],
)
def test_a_broken_plugin_is_refused_in_one_line(code: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text(code)
    with pytest.raises(ConfigError) as refusal:
        compose([f"plugins=[{file}]"])
    assert str(refusal.value).startswith(f"plugins={file}: ")
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_plugin_that_is_missing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"plugins=nowhere\.py: No such file"):
        compose(["plugins=[nowhere.py]"])
