"""The command: two files in, one answer out; interrupted and repeated, with a checkpoint, prices, classes of one's own."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.advise import command
from src.advise.costs import Account
from src.advise.pilot import Ladder, Pilot, choose_ladder
from src.advise.question import Budget, split_arguments
from src.errors import ConfigError
from src.models.build import build_model
from src.sweep.supervisor import LAUNCHERS

REGIMES = "regimes=[d1_only,combined,sequential,{warm_start:{optimizer.lr:1e30}}]"


def blobs(path: Path, classes: list[int], n: int, seed: int) -> None:
    """Two features around a centre for each class."""
    rng = np.random.default_rng(seed)
    y = np.resize(classes, n)
    centres = np.array([[0, 0], [4, 0], [0, 4], [4, 4]])
    np.savez(path, x=(centres[y] + rng.standard_normal((n, 2))).astype(np.float32), y=y)


class Advice:
    """One folder of two files; Dataset 2 lacks class 2 and has a class 3 of its own."""

    def __init__(self, folder: Path) -> None:
        self.multirun, files = folder / "multirun", [folder / "old.npz", folder / "new.npz"]
        blobs(files[0], [0, 1, 2], 600, 0)
        blobs(files[1], [0, 1, 3], 300, 1)
        self.words = ["data=arrays", f"data.path={files[0]}", f"data.path2={files[1]}", "arch.widths=[8]", REGIMES]
        self.words += ["stopping.epochs=8", "tune.trials=2", "tune.seeds=1", "trainer=cpu", "n_workers=1"]
        self.words += ["budget=30%", f"multirun={self.multirun}", "sweep=blobs"]

    @property
    def root(self) -> Path:
        return self.multirun / "blobs"

    @property
    def content(self) -> dict[str, Any]:
        return dict(json.loads((self.root / "advice" / "advice.json").read_text()))

    def times(self) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in self.root.glob("cells/*/*/result.json")}


@pytest.fixture(scope="module")
def advice(tmp_path_factory: pytest.TempPathFactory, empty_multirun: Path) -> Advice:
    """Interrupted after the tuning, continued to the end."""
    made = Advice(tmp_path_factory.mktemp("advise"))
    shutil.copytree(empty_multirun, made.multirun)
    with pytest.MonkeyPatch.context() as patch:
        whole, calls = Pilot.run, []

        def interrupted(self: Pilot, configs: Any) -> Any:
            calls.append(configs)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return whole(self, configs)

        patch.setattr(Pilot, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            command.main(made.words)
    before = made.times()
    assert len(before) == 2 + 4 * 3
    assert command.main([*made.words, "arrivals=[90,120]", "price.hour=2.5", "value.point=1"]) == 0
    assert {path: made.times()[path] for path in before} == before
    return made


def test_it_answers_in_three_sentences_for_classes_that_differ(advice: Advice) -> None:
    content = advice.content
    assert len(content["sentences"]) == 3
    assert {one["label"] for one in content["candidates"]} == {"d1_only", "combined", "sequential"}
    assert content["sizes"] == [420, 210]
    values = {one["label"]: one for one in content["candidates"]}
    assert values["combined"]["predicted"] > values["d1_only"]["predicted"]  # which never saw class 3
    assert all(one["low"] <= one["predicted"] <= one["high"] for one in values.values())
    assert sum(one["p_best"] for one in values.values()) == pytest.approx(1)
    assert content["share"] <= 0.3


def test_a_candidate_that_diverges_is_left_out_with_the_reason(advice: Advice) -> None:
    (label,) = advice.content["left_out"]
    assert label.startswith("warm_start")
    assert "diverged; lower optimizer.lr" in advice.content["left_out"][label]


def test_the_page_and_mlflow_have_the_answer(advice: Advice) -> None:
    content, html = advice.content, (advice.root / "advice" / "advice.html").read_text()
    assert "data:image/svg+xml;base64," in html
    assert "http" not in html.replace("http-equiv", "")
    for text in (*content["sentences"], content["command"], "90 % interval", "P(best)"):
        assert text.replace("&", "&amp;").replace("'", "&#39;") in html, text
    with sqlite3.connect(advice.multirun / "mlflow.db") as database:
        found = dict(database.execute("select key, value from latest_metrics where key like 'advice/%'"))
        (note,) = database.execute(
            "select value from tags where key = 'mlflow.note.content' and value like ?",
            (f"%{content['sentences'][0]}%",),
        ).fetchone()
    assert content["sentences"][2] in note
    plan = content["schedule"]
    assert [step["batch"] for step in plan["steps"]] == [90, 120]
    assert {rival["action"] for rival in plan["rivals"]} == {"nothing", "retrain", "fine-tune"}
    assert plan["steps"][0]["action"] != "nothing"  # which never learns class 3
    assert "As batches arrive" in html
    assert found["advice/arrivals/net"] == pytest.approx(plan["net"])
    assert found["advice/arrivals/lead/retrain"] >= 0
    best = content["candidates"][0]
    assert found[f"advice/{best['label']}/predicted"] == pytest.approx(best["predicted"])
    assert found[f"advice/{best['label']}/cost/updates"] == best["cost"]["updates"]


def test_a_repetition_trains_nothing_and_a_checkpoint_makes_its_stage_sunk(
    advice: Advice, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(LAUNCHERS, "local", lambda *_: pytest.fail("workers were started"))
    config = command.compose_settings([*advice.words[:-3], *advice.words[-2:]])
    weights = tmp_path / "model.pt"
    torch.save(build_model(config.arch, (2,), 4, 0, torch.float32).state_dict(), weights)
    before, costs = advice.times(), {one["label"]: one["cost"] for one in advice.content["candidates"]}
    words = [*advice.words, f"checkpoint={weights}", "price.hour=3600", "value.point=2", "tracking=off"]
    assert command.main(words) == 0
    assert advice.times() == before
    found = {one["label"]: one for one in advice.content["candidates"]}
    assert found["d1_only"]["cost"]["updates"] == 0
    assert found["combined"]["cost"]["updates"] == costs["combined"]["updates"] == 8 * 10
    assert found["sequential"]["cost"]["updates"] == costs["sequential"]["updates"] - 8 * 7 == 8 * 4
    for one in found.values():  # 3600 an hour is one a second
        assert one["cost"]["money"] == pytest.approx(one["cost"]["seconds"])
        assert one["net"] == pytest.approx(2 * one["predicted"] - one["cost"]["money"], abs=0.05)
    shown = capsys.readouterr().out
    assert "net value" in shown
    assert re.search(r"It costs (under 1|\d+) s \(price [\d.]+\) on this machine", " ".join(shown.split()))
    assert "regret: expected distance from the best, in the currency of price.hour" in " ".join(shown.split())
    assert f"seeds=1 multirun={advice.multirun}" in shown, "the recommended training goes where the advice is"
    assert "the model of Dataset 1 being paid for" in shown
    assert "its weights are not measured" in shown
    of_three = build_model(config.arch, (2,), 3, 0, torch.float32)  # of Dataset 1's classes alone
    torch.save(of_three.state_dict(), weights)
    with pytest.raises(ConfigError, match=rf"^checkpoint={weights}: does not fit .* checkpoint=\{{path:FILE,classes"):
        command.main([*words, "dry_run=true"])
    named = f"checkpoint={{path:{weights},classes:['0','1','2']}}"
    assert command.main([*words[:-4], named, "dry_run=true"]) == 0
    with pytest.raises(ConfigError, match=r"^checkpoint=.*: no candidate starts from a model of Dataset 1"):
        command.main([*words[:-4], named, "dry_run=true", "regimes=[d1_only,combined]"])


def test_too_little_data_and_too_small_a_budget_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Advice(tmp_path)
    words = [word for word in made.words if not word.startswith("budget=")] + ["tracking=off"]
    with pytest.raises(ConfigError, match=r"budget=0.01%: is less than the smallest pilot needs, about .*; raise it"):
        command.main([*words, "budget=0.01%"])
    blobs(tmp_path / "new.npz", [0, 1, 3], 15, 1)
    assert command.main([*words, "budget=10%"]) == 1
    assert "cannot say: " in capsys.readouterr().out


def test_few_data_in_a_small_budget_have_a_thrifty_pilot_that_costs_no_more(tmp_path: Path) -> None:
    made = Advice(tmp_path)
    blobs(tmp_path / "new.npz", [0, 1, 3], 60, 1)
    blobs(tmp_path / "old.npz", [0, 1, 2], 90, 0)
    words = [word for word in made.words if not word.startswith("tune.")]
    question, settings = split_arguments([*words, "tracking=off"])
    pilot, _ = command.prepare(command.compose_settings(settings), question)
    tune = pilot.full.config.tune

    def chosen(share: float) -> tuple[Ladder, float]:
        pilot.account = Account(budget=Budget(share=share))
        return choose_ladder(pilot), pilot.account.share

    measured, price = chosen(0.8)
    assert (measured.fractions, measured.tune) == ((0.25, 1.0), tune), "all data"
    for share, n_trials in ((0.7, 8), (0.3, 4), (0.25, 2)):
        thrifty, spent = chosen(share)
        assert spent <= share < price
        assert (thrifty.tune.n_runs, thrifty.tuned) == (n_trials, thrifty.fractions[0])
        assert sum(pilot.sizes_at(thrifty.tuned)) >= sum(pilot.floors)
        # the price is that of the samples of each subset
        sizes = [sum(pilot.sizes_at(f)) for f in thrifty.fractions]
        samples = 3 * sum(sizes) + n_trials * sizes[0]
        assert spent == pytest.approx(samples / (10 * sum(pilot.sizes)), rel=0.02)
    with pytest.raises(ConfigError, match=r"budget=1%: is less than the smallest pilot needs, about .* or \d+%"):
        chosen(0.01)


def test_compiled_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^trainer\.compile=true: advice trains on small parts"):
        command.compose_settings(["trainer.compile=true"])
