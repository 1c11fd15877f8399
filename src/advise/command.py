"""The command `python -m src.advise`: pilot, forecast, decision, and the answer on the terminal, as a page and in
MLflow."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from src.advise.answer import Answer, advise, outlook_of
from src.advise.arrivals import schedule
from src.advise.pilot import THRIFTY_STEP, CannotSay, Pilot, choose_ladder
from src.advise.question import Question, split_arguments
from src.advise.sentences import notes, rivals_table, schedule_sentence, schedule_table, sentences, table
from src.cells.resolve import ResolvedCell, resolve
from src.cli import quote_space
from src.config import Config, compose, with_knobs
from src.config.command import command as sweep_command
from src.config.plugins import knobs_of
from src.config.tune import OFF, EqualTuning
from src.errors import ConfigError
from src.io import MAX_OWN_NAME, file_name, write_atomically
from src.regimes.catalog import RegimeConfig
from src.sweep.workers.local import n_workers_of
from src.terminal import console
from src.tracking.outbox import Deliverer, Outbox
from src.tracking.reports import SweepReport, write_sweep
from src.urls import without_secrets

CANDIDATES = (
    "d1_only",
    "combined",
    "sequential",
    "{replay:{share:0.1}}",
    "{replay:{share:0.3}}",
    "{replay:{share:0.5}}",
    "warm_start",
    "shrink_perturb",
    "freeze",
)
DEFAULTS = {
    "regimes": f"[{','.join(CANDIDATES)}]",
    "seeds": "3",
    "tune": "equal",
    "tune.trials": "8",
    "tune.seeds": "2",
    "tune.space": "'{optimizer.lr: tag(log,interval(1e-3,1))}'",  # replaced by a range around the given rate
    "trainer.curve_points": "1",
}
"""Settings of a sweep that are others here, unless given. Curves would cost more than the training of small subsets."""
FOLDER = "advice"
"""In the folder of the sweep."""
DISPENSABLE = ("FLOPs", "again", "updates", "pilot", "time", "regret")
"""Columns that a narrow terminal does without, the first one first."""
MAX_ROUNDS = 3
"""Times that go=true extends the pilot beyond its budget."""


def main(arguments: Sequence[str]) -> int:
    """Advises; returns 1 if nothing can be said."""
    question, settings = split_arguments(arguments)
    config = compose_settings(settings)
    pilot, remarks = prepare(config, question)
    if config.dry_run:
        print(_plan_text(pilot))
        return 0
    with Deliverer(pilot.full.sweep_dir, config.tracking):
        try:
            report(run(pilot, remarks), pilot, arguments)
        except CannotSay as reason:
            print(f"cannot say: {reason}")
            return 1
    return 0


def compose_settings(settings: Sequence[str]) -> Config:
    """The configuration of the pilot's sweep: the user's settings over `DEFAULTS`."""
    given = {setting.partition("=")[0].lstrip("+") for setting in settings}
    defaults = [f"{key}={value}" for key, value in DEFAULTS.items() if key not in given]
    if "tune=off" in settings:
        defaults = [default for default in defaults if not default.startswith("tune.")]
    config = compose([*defaults, *map(quote_space, settings)])
    if isinstance(config.tune, EqualTuning) and "tune.space" not in given:
        lr = config.optimizer.lr
        space = [f"optimizer.lr: tag(log,interval({lr / 30:.3g},{lr * 5:.3g}))"]
        if any("lr_factor" in knobs_of(regime.function) for regime in config.regimes):
            space.append("lr_factor: tag(log,interval(0.01,1))")
        config = dataclasses.replace(config, tune=dataclasses.replace(config.tune, space=f"{{{', '.join(space)}}}"))
    if "sweep" not in given:
        name = file_name(f"advice-{config.data.name}-{config.arch.name}", MAX_OWN_NAME)
        config = dataclasses.replace(config, sweep=name)
    if config.split.parts != 2:
        raise ConfigError("split.parts", config.split.parts, "advice is about two data sets; leave it at 2")
    if config.trainer.compile:
        problem = "advice trains on small parts of the data, where compiling does not pay; set it to false"
        raise ConfigError("trainer.compile", True, problem)
    return config


def prepare(config: Config, question: Question) -> tuple[Pilot, list[str]]:
    """The pilot with its data loaded, without candidates that these data and this network do not allow.

    Raises ConfigError if fewer than two candidates are left, and for a checkpoint that does not fit.
    """
    kept, remarks, problem = [], [], None
    for regime in config.regimes:
        try:
            resolve(dataclasses.replace(config, regimes=(regime,), baseline=None))
        except ConfigError as error:
            if not error.key.startswith("regime."):
                raise
            remarks.append(f"{regime.label} is left out: {error}")
            problem = problem or error
        else:
            kept.append(regime)
    if len(kept) < 2:
        raise problem or ConfigError("regimes", [r.label for r in kept], "advice compares candidates; give two or more")
    full = resolve(dataclasses.replace(config, regimes=tuple(kept), baseline=None))
    if question.checkpoint is not None:
        remarks.append(_check_checkpoint(full, question))
    stream = full.streams.build(full.config.seeds[0])
    pilot = Pilot(question=question, asked=config, full=full, stream=stream, n_workers=n_workers_of(config))
    return pilot, remarks


def run(pilot: Pilot, remarks: Sequence[str]) -> Answer:
    """Runs the pilot and answers. Raises CannotSay.

    While the answer is not certain, the better half of those that may be best is trained on twice the data (successive
    halving: Jamieson & Talwalkar 2016), as far as the budget allows; with `go` up to three times beyond it.
    """
    if 0 in pilot.sizes:
        raise CannotSay(f"Dataset {pilot.sizes.index(0) + 1} has no training samples")
    question, remarks, ladder = pilot.question, list(remarks), choose_ladder(pilot)
    smallest = ladder.fractions[0]
    if pilot.sizes_at(smallest) != tuple(round(n * smallest) for n in pilot.sizes):
        remarks.append(
            "the smaller data set has few samples for its classes: small subsets keep more of it than its share"
        )
    if ladder.tune != pilot.full.config.tune:
        remarks.append(
            f"few data for this budget: sizes grow by {THRIFTY_STEP:.1f} instead of 2, tuned by {ladder.tune.n_runs} "
            "trainings a candidate"
        )
    pilot.climb(ladder)
    answer = advise(pilot, remarks)
    n_beyond = 0
    while (further := answer.next_runs) is not None:
        size = (further.fraction, len(further.seeds))
        best = [further.candidates[:n] for n in range(max(2, (len(further.candidates) + 1) // 2), 1, -1)]
        chosen = next((own for own in best if pilot.account.allows(*pilot.price(own, *size))), ())
        if not chosen:
            if not question.go or n_beyond == MAX_ROUNDS or answer.decision.kind != "thin":
                break
            n_beyond += 1
            chosen = further.candidates
        pilot.account.spend(*pilot.price(chosen, *size))
        pilot.extend(further.fraction, chosen, further.seeds)
        answer = advise(pilot, remarks)
    if question.arrivals is not None:
        try:
            plan = schedule(outlook_of(pilot))
        except CannotSay as reason:
            return dataclasses.replace(answer, remarks=(*answer.remarks, f"no policy for the arrivals: {reason}"))
        answer = dataclasses.replace(answer, schedule=plan)
    return answer


def _plan_text(pilot: Pilot) -> str:
    """The output of a dry run."""
    question, config, (n1, n2) = pilot.question, pilot.full.config, pilot.sizes
    samples = sum(stage.samples for own in pilot.stages for stage in own)
    lines = (
        f"candidates: {', '.join(regime.label for regime in config.regimes)}",
        f"Dataset 1: {n1} training samples, Dataset 2: {n2}",
        f"served: {question.served}; budget: {question.budget}; tuning: {config.tune.n_runs} trainings a candidate",
        f"all candidates once at full size: {samples:,} samples",
    )
    return "\n".join(lines)


def _check_checkpoint(full: ResolvedCell, question: Question) -> str:
    """A remark on what the file stands for. Raises ConfigError if it fits no candidate, or not the network."""
    regimes = full.config.regimes
    try:
        started = [own for regime in regimes if (own := _from_checkpoint(regime, full, question)) is not regime]
        if started:
            resolve(dataclasses.replace(full.config, regimes=tuple(started[:1]), baseline=None))
    except ConfigError as error:
        _, knob, rest = error.key.partition("checkpoint")
        problem = error.problem.replace("checkpoint:{", "checkpoint={")
        raise ConfigError(f"{knob}{rest}" or error.key, error.value, problem) from error
    if not started:
        problem = "no candidate starts from a model of Dataset 1; add one, such as sequential, to regimes"
        raise ConfigError("checkpoint", question.checkpoint, problem)
    return (
        "the checkpoint's training is taken as paid, its weights are not measured: doing nothing (d1_only) and the "
        "first stages are models that the pilot trains"
    )


def _from_checkpoint(regime: RegimeConfig, cell: ResolvedCell, question: Question) -> RegimeConfig:
    """The regime with the user's file in place of its first stage, if it can have one."""
    if question.checkpoint is None or "checkpoint" not in knobs_of(regime.function):
        return regime
    return with_knobs(regime, {"checkpoint": question.checkpoint}, 2, cell.config.optimizer)


def training_command(answer: Answer, pilot: Pilot) -> str:
    """The command of the recommended training at full size."""
    labels = [regime.label for regime in pilot.full.config.regimes]
    regime = _from_checkpoint(pilot.chosen[labels.index(answer.choice.label)], pilot.full, answer.question)
    trainer = dataclasses.replace(pilot.asked.trainer, curve_points=compose().trainer.curve_points)
    line = sweep_command(dataclasses.replace(pilot.asked, regimes=(regime,), seeds=(0,), tune=OFF, trainer=trainer))
    folder = pilot.asked.multirun
    return line if folder == "multirun" else f"{line} {shlex.quote(f'multirun={folder}')}"


def report(answer: Answer, pilot: Pilot, arguments: Sequence[str]) -> None:
    """Prints the answer and writes the page, advice.json and the sweep's record for MLflow."""
    from src.advise.page import PAGE, write_page

    config, root = pilot.full.config, pilot.full.sweep_dir
    folder, line = root / FOLDER, training_command(answer, pilot)
    again = " ".join(["python -m src.advise", *(shlex.quote(without_secrets(argument)) for argument in arguments)])
    data = f"{config.data.name}, {pilot.sizes[0]:,} + {pilot.sizes[1]:,} training samples"
    files = write_page(folder, answer, name=config.sweep, data=data, command=line, question=again)
    write_atomically(folder / "advice.json", (json.dumps(content(answer, line), indent=1) + "\n").encode())
    terminal, said = console(width=140), sentences(answer)
    terminal.print(said[0], style="bold")
    for sentence in (*said[1:], ""):
        terminal.print(sentence)
    whole = table(answer)
    shown = whole.fitting(terminal.width, DISPENSABLE)
    terminal.print(shown.terminal())
    if shown != whole:
        terminal.print("all columns are on the page", style="dim")
    for note in notes(answer):
        terminal.print(note, style="dim")
    if answer.schedule is not None:
        terminal.print(f"\n{schedule_sentence(answer.schedule)}", style="bold")
        for one in (schedule_table(answer, answer.schedule), rivals_table(answer.schedule)):
            terminal.print(one.terminal())
    terminal.print(f"to do it: {line}", soft_wrap=True)
    terminal.print(f"page: {folder / PAGE}", soft_wrap=True)
    for failure in pilot.failures:
        print(f"failed: {failure}", file=sys.stderr)
    artifacts = [str(path.relative_to(root)) for path in (*files, folder / "advice.json")]
    about = SweepReport(
        sweep=config.sweep, note=" ".join(said), command=again, metrics=metrics(answer), artifacts=artifacts
    )
    with Outbox(root).transaction(root):
        write_sweep(root, about)


def metrics(answer: Answer) -> dict[str, float]:
    """The answer as metrics of the sweep's run in MLflow."""
    found = {"advice/share": answer.share, "advice/abstains": float(answer.decision.abstains)}
    for one in answer.candidates:
        values = {name: getattr(one, name) for name in ("predicted", "low", "high", "p_best", "regret", "net")}
        values |= {f"cost/{name}": value for name, value in dataclasses.asdict(one.cost).items()}
        found |= {f"advice/{one.label}/{name}": float(value) for name, value in values.items() if value is not None}
    if answer.schedule is not None:
        found["advice/arrivals/net"] = answer.schedule.net
        found |= {f"advice/arrivals/lead/{rival.action}": rival.lead for rival in answer.schedule.rivals}
    return found


def content(answer: Answer, line: str) -> dict[str, Any]:
    """The answer as plain JSON."""
    plain: Mapping[str, Any] = dataclasses.asdict(answer)
    return {"choice": answer.choice.label, "sentences": sentences(answer), "command": line, **plain}
