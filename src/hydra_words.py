"""Words of Hydra's command line that mean something else here: each is refused with the word that does the same."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Sequence

LAUNCHERS = {
    "joblib": "n_workers=N starts N workers on this machine",
    "ray": "launcher=ray submits the workers as tasks",
    "submitit_local": "launcher=slurm launcher.cluster=local runs the same jobs on this machine",
    "submitit_slurm": "launcher=slurm submits the workers as jobs",
}
SWEEPERS = {
    "basic": "leave it out: -m with axes is a grid",
    "optuna": "search=tpe (gp, random) searches; docs/SEARCH.md has Optuna's forms",
}
OF_SWEEPER = {
    "n_trials": "search.n_trials=N",
    "n_jobs": "n_workers=N",
    "max_batch_size": "n_workers=N",
    "direction": "objective_direction=minimize",
    "study_name": "sweep=NAME",
    "storage": "storage=URL",
    "sampler": "search=tpe, gp or random",
}
NOT_ELSEWHERE = "has no effect: results are stored by content; multirun=FOLDER says where, sweep=NAME under which name"
WHERE = ("hydra.run.", "hydra.sweep.", "hydra.output_subdir", "hydra.job.chdir", "hydra.job.name")

UNUSED: dict[str, tuple[str, ...]] = {
    "sweep": (),  # regime and seed may be axes of runs
    "train": (
        *("regimes", "baseline", "margin", "seeds", "seeding", "objective", "objective_direction", "search"),
        *("launcher", "n_workers", "notify", "storage", "dry_run"),
    ),
}
"""By command, the settings of conf/ that it does not use."""
UNUSED_GROUPS = {"sweep": ("advice", "anchor", "claim"), "train": ("advice", "anchor", "claim", "launcher", "search")}
SETTINGS = "== Settings"
WIDTH = 80

COMPLETION = """_src_completion() {
    local words=($COMP_LINE)
    [[ "${words[1]}" == -m && "${words[2]}" == src.* ]] || return
    local found=$(COMP_POINT=$COMP_POINT COMP_LINE="$COMP_LINE" \\
        "${words[0]}" -m "${words[2]}" -sc query=bash 2> /dev/null)
    COMPREPLY=($(compgen -o nospace -o default -W "$found" -- "${words[$COMP_CWORD]}"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _src_completion python .venv/bin/python"""
"""Bash's function; Hydra's own knows `python FILE.py` only."""


def used_part(name: str, text: str) -> str:
    """Hydra's help without the groups and settings that the command src.`name` does not use."""
    shown, is_used, unused = [], True, UNUSED_GROUPS[name]
    for line in text.rstrip().splitlines():
        if line.startswith(SETTINGS):
            unused = UNUSED[name]
        if key := re.match(r"(\w+):", line):  # deeper lines and items belong to it
            is_used = key[1] not in unused
        elif not line.startswith((" ", "-")):
            is_used = True
        if unused is UNUSED_GROUPS[name]:  # several groups have longer lists than a terminal is wide
            line = textwrap.fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False, replace_whitespace=False)
        shown += [line] if is_used else []
    return "\n".join(shown)


def refusal(overrides: Sequence[str]) -> str | None:
    """Why the overrides cannot be obeyed, as ``key=value: problem; fix``; None if they can."""
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if problem := _problem(key, value):
            return f"{override}: {problem}"
    return None


def _problem(key: str, value: str) -> str | None:
    group, _, name = key.rpartition(".")
    if key == "hydra/launcher" and value != "basic":
        return f"Hydra's launchers do not run cells; {LAUNCHERS.get(value, 'n_workers=N or launcher=slurm does')}"
    if key == "hydra/sweeper" and value != "lab":
        return f"Hydra's sweepers do not queue cells; {SWEEPERS.get(value, 'search=tpe searches a space')}"
    if group == "hydra.launcher":
        return "Hydra's launcher starts no worker; set n_workers=N, or launcher=slurm and launcher.KEY"
    if group.startswith("hydra.sweeper.params"):
        axis = key.removeprefix("hydra.sweeper.params.")
        return f"an axis of the command line stands for itself; write {axis}={value}"
    if (group == "hydra.sweeper" or group.startswith("hydra.sweeper.")) and name not in ("engine", "params"):
        word = key.removeprefix("hydra.sweeper.").partition(".")[0]
        return f"is no setting of this sweeper; write {OF_SWEEPER.get(word, 'search=tpe and search.KEY')}"
    if any(key.startswith(prefix) for prefix in WHERE) and (key, value.lower()) != ("hydra.job.chdir", "false"):
        return NOT_ELSEWHERE
    return None


def complete(words: Sequence[str]) -> str | None:
    """Prepares ``-sc`` for Hydra, which knows no ``python -m``; returns the text to print where Hydra is not needed."""
    if not {"-sc", "--shell-completion"} & set(words):
        return None
    if "install=bash" in words:
        return COMPLETION
    if "uninstall=bash" in words:
        return "complete -r python .venv/bin/python; unset -f _src_completion"
    os.environ["COMP_LINE"] = re.sub(r"^\s*\S+\s+-m\s+src\.\w+", "python src", os.environ.get("COMP_LINE", ""))
    return None


def refuse_of_one_run(overrides: Sequence[str]) -> str | None:
    """Why a command of a single run cannot obey settings of a sweep; None if there are none."""
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        one = {"seeds": "seed=N", "regimes": "regime=NAME", "baseline": "regime=NAME", "margin": "regime=NAME"}.get(key)
        if one is not None:
            return (
                f"{override}: is of a comparison, and src.train trains one run; set {one}, or use python -m src.sweep"
            )
        ignored = key == "storage" or (key, value.lower()) == ("dry_run", "false")  # a user's own, for all commands
        if key.partition(".")[0] in UNUSED["train"] and not ignored:
            return f"{override}: is of a sweep, and one run has none; use python -m src.sweep"
    return None
