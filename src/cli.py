"""How every command starts: Hydra around a task, and a user's mistake said in one line, with exit code 2.

A traceback is shown for what is not the user's mistake; HYDRA_FULL_ERROR=1 adds it to what is.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import functools
import importlib
import io
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from src import interrupts
from src.environment import clean_process
from src.errors import ConfigError, did_you_mean
from src.hydra_words import complete, refusal, used_part
from src.io import CONF_DIR, PROJECT
from src.terminal import TextOutput
from src.typed import conf_names, dotted_keys
from src.urls import without_secrets

FULL_ERROR = "HYDRA_FULL_ERROR"
MODES = ("--run -r", "--multirun -m", "--shell-completion -sc")
FLAGS = ("--help -h", "--hydra-help", "--version", "--resolve")
OPTIONS = ("--package -p", "--config-path -cp", "--config-name -cn", "--config-dir -cd")
CFG = ("job", "hydra", "all")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
"""Hydra's options: one mode, or --cfg, or --info; and others without and with a value (hydra.cc, "command line
flags")."""
TRUTH = ("true", "false")
MISTAKES = (ConfigError, HydraException, OmegaConfBaseException)
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST}


class _Output(io.FileIO):
    """A standard stream that drops what cannot be written: a full disk must not end a command."""

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            return len(data)


def command(main: Callable[[], int | None], usage: str | None = None, *, started_by_torchrun: bool = False) -> NoReturn:
    """Runs a command as this process: in a clean environment, with standard streams that may be closed or full.

    `usage`: printed for --help; without it `main` answers that.
    """
    interrupts.listen()
    clean_process(started_by_torchrun=started_by_torchrun)
    sys.path.insert(0, str(PROJECT))  # Hydra looks for hydra_plugins: ours, not one of another project
    outputs = _standard_streams()
    status: int | str | None
    try:
        if usage is not None and {"-h", "--help"} & set(sys.argv[1:]):
            print(usage)
            status = 0
        else:
            status = main()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or interrupts.was_interrupted():
            print(interrupts.STOPPED, file=sys.stderr)
            status = interrupts.EXIT_STATUS
        elif isinstance(error, MISTAKES):
            if os.environ.get(FULL_ERROR) == "1":
                traceback.print_exc()
            print(f"error: {explain(error, sys.argv[1:])}", file=sys.stderr)
            status = 2
        elif isinstance(error, SystemExit):
            status = error.code
        else:
            raise
    for name, output in outputs.items():
        getattr(sys, name).flush()
        if output.error is not None and output.error.errno != errno.EPIPE:
            print(f"error: {name} cannot be written: {output.error.strerror}; nothing else is lost", file=sys.stderr)
            status = status or 1
    sys.exit(status)


def command_of(module: str, usage: str) -> NoReturn:
    """Runs `main` of a module with the arguments; --help is answered without importing it, which loads torch."""
    command(lambda: importlib.import_module(module).main(sys.argv[1:]), usage)


def _standard_streams() -> dict[str, _Output]:
    """Replaces stdout and stderr, and those that are closed by the null device."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which a later file must not get
    outputs = {}
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        outputs[name] = _Output(
            os.open(os.devnull, os.O_WRONLY) if stream is None else stream.fileno(), "w", closefd=False
        )
        encoding, is_shown = getattr(stream, "encoding", "utf-8"), outputs[name].isatty() or name == "stderr"
        text = TextOutput(
            io.BufferedWriter(outputs[name]), encoding, errors="backslashreplace", line_buffering=is_shown
        )
        setattr(sys, name, text)
    return outputs


def run(task: Callable[[DictConfig], None], name: str = "sweep") -> None:
    """Composes conf/config.yaml under the command line and calls `task` with it (with -m: the sweep instead).

    `name`: of the command, src.`name`, for --help.
    """
    full = os.environ.get(FULL_ERROR) == "1"
    os.environ[FULL_ERROR] = "1"  # Hydra then raises, instead of printing half of it and leaving

    @functools.wraps(task)
    def quiet(config: DictConfig) -> None:
        _refuse_axes_without_multirun()
        try:
            task(config)
        except (*MISTAKES, OSError) as error:  # here, since Hydra writes a line of its own about a task's exceptions
            if full or not _is_the_users(error):
                raise
            fail(explain(error, sys.argv[1:]))

    try:
        if (script := complete(sys.argv[1:])) is not None:
            print(script)
            return
        overrides = _arguments()
        if problem := refusal(overrides):
            fail(problem)
        if any(override.lstrip("+").startswith("plugins=") for override in overrides):
            from src.config.plugins import offer_plugins  # --help starts without the configuration's modules

            offer_plugins(overrides)
        start = hydra.main(config_path=str(CONF_DIR), config_name="config", version_base="1.3")(quiet)
        if {"-h", "--help"} & set(sys.argv[1:]):
            sys.argv.append(f"hydra/help={name}")
            with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
                start()  # exits with 0 once it has printed
            print(used_part(name, text.getvalue()))
        else:
            start()
    except (*MISTAKES, OSError) as error:
        if full or not _is_the_users(error):
            raise
        fail(explain(error, overrides))
    finally:
        if not full:
            os.environ.pop(FULL_ERROR, None)


def _refuse_axes_without_multirun() -> None:
    """Axes of a study file are Hydra's `sweeper.params`, which it reads with -m alone."""
    from hydra.core.hydra_config import HydraConfig

    for key, values in (HydraConfig.get().sweeper.get("params") or {}).items():
        fail(
            f"{key}={values}: is an axis of a file, and axes need -m; add it, or leave the file's "
            "hydra.sweeper.params out"
        )


def _is_the_users(error: Exception) -> bool:
    """Hydra's own error for a choice that does not exist is an OSError as well."""
    if interrupts.was_interrupted():
        return False
    unwritable = isinstance(error, OSError) and error.errno in UNWRITABLE and error.filename is not None
    return isinstance(error, MISTAKES) or unwritable


def fail(line: str) -> NoReturn:
    """Ends the command with a user's mistake."""
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)


def settings(known: Mapping[str, str | None], arguments: Sequence[str]) -> dict[str, str | None]:
    """The ``key=value`` arguments of a small command that needs no composition; `known` holds the keys' defaults.

    Those whose default is true or false are one of the two.

    Files that `plugins`, if it is known, names are trusted from here on. Raises ConfigError for one that is missing.
    """
    values = dict(known)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in known:
            fail(f"{argument}: unknown; {did_you_mean(key, list(known))} (see --help)")
        if known[key] in TRUTH and value not in TRUTH:
            fail(f"{key}={value}: must be true or false")
        values[key] = value
    if (plugins := values.get("plugins")) is not None:
        from src.config.plugins import offer_plugins  # --help starts without the configuration's modules

        offer_plugins([f"plugins={plugins}"])
    return values


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """One line that names the key, the value and the fix, for an error of the configuration or a folder's."""
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, OSError) and not isinstance(error, MISTAKES):
        fix = "free disk space, make it writable, or choose another folder by multirun=FOLDER; then repeat the command"
        return f"{error.filename}: {error.strerror}; {fix}"
    if isinstance(error, OverrideParseException) and error.override != (hidden := without_secrets(error.override)):
        fix = "quote the value for Hydra and for the shell, \"key='value'\", and give the password in PGPASSWORD"
        return f"{hidden}: is not an override; {fix}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: is not an override; {_quoted(error.override)}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and "/" in error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        options = sorted(error.options or conf_names(group))
        return f"{group}={choice}: there is no conf/{group}/{choice}.yaml; {did_you_mean(choice, options)}"
    message = " ".join(str(error.__cause__ or error if not str(error) else error).split())
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        shown = without_secrets(f"{key}={value}")
        if f"'{override}'" in message and "multirun" in message:
            return f"{shown}: several values need -m; or write key=[a,b] for one list"
        if f"'{key}'" in message:
            return f"{shown}: {_unknown(key)}"
    return message


def _quoted(override: str) -> str:
    """The same override with its value in quotes, if Hydra then reads it."""
    key, _, value = override.partition("=")
    is_list = value.startswith("[") and value.endswith("]")
    items = [_in_quotes(item) for item in (value[1:-1].split(",") if is_list else [value])]
    candidate = f"{key}=[{','.join(items)}]" if is_list else f"{key}={items[0]}"
    try:
        is_read = bool(key and value) and OverridesParser.create().parse_override(candidate) is not None
    except HydraException:
        is_read = False
    if not is_read:
        return "write key=value, and quote what holds spaces, commas or braces"
    odd = dict.fromkeys(letter for letter in value if not re.fullmatch(r"[\w./:=@%+?*$\\-]", letter, re.ASCII))
    cause = f"{' '.join(odd)} must be quoted" if odd else "the value must be quoted"
    return f"{cause}, for Hydra and for the shell: {shlex.quote(candidate)}"


def _in_quotes(text: str) -> str:
    """A text as Hydra reads it in quotes."""
    escaped = text.strip("'\"").replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _unknown(key: str) -> str:
    """Why the composed config has no such key."""
    places = _keys()
    if places.get(key) == []:
        return "is a setting of every command; write it without +"
    if key in places:
        return f"is no setting of the chosen {key.partition('.')[0]}; add {' or '.join(places[key])}"
    return f"unknown key; {_close(key, list(places))}"


def _close(key: str, known: Sequence[str]) -> str:
    """The nearest key there is: by its last part in any group or in its own, or by its whole name."""
    group, _, last = key.rpartition(".")
    by_last = [name for name in known if name.rpartition(".")[2] == last]
    if by_last:
        return f"did you mean {by_last[0]}?"
    siblings = [name.removeprefix(f"{group}.") for name in known if name.rpartition(".")[0] == group]
    if not group or not siblings:
        close = difflib.get_close_matches(key, known, n=1)
        return f"did you mean {close[0]}?" if close else "--help lists the settings"
    close = difflib.get_close_matches(last, siblings, n=1)
    return f"did you mean {group}.{close[0]}?" if close else f"known: {', '.join(siblings)}"


def _keys() -> dict[str, list[str]]:
    """Every key of conf/, with the choices of groups that have it (none for those of config.yaml itself)."""
    keys: dict[str, list[str]] = {}
    for path in sorted(CONF_DIR.rglob("*.yaml")):
        group = path.parent.relative_to(CONF_DIR)
        if str(group).partition("/")[0] in ("hydra", "claim", "anchor", "advice"):  # no settings of a run
            continue
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        choice = [f"{group}={path.stem}"] if group != Path() else []
        if choice:
            keys.setdefault(str(group), [])
        own = {name: value for name, value in content.items() if name not in ("defaults", "hydra")}
        for key in dotted_keys(own, "".join(f"{part}." for part in group.parts)):
            keys.setdefault(key, []).extend(choice)
    return keys


def quote_space(override: str) -> str:
    """The override, with the value of `tune.space` as a text: Hydra allows no interval inside braces."""
    key, _, value = override.partition("=")
    return f"{key}={_in_quotes(value)}" if key == "tune.space" and value.startswith("{") else override


def _arguments() -> list[str]:
    """The overrides of the command line. Refuses an unknown option in one line.

    Hydra wants the overrides side by side; they are moved there, so that options may stand between them.
    """
    parser = argparse.ArgumentParser(add_help=False)
    modes = parser.add_mutually_exclusive_group()
    for group, flags in ((modes, MODES), (parser, FLAGS)):
        for names in flags:
            group.add_argument(*names.split(), action="store_true")
    modes.add_argument("--cfg", "-c", choices=CFG)
    modes.add_argument("--info", "-i", nargs="?", choices=INFO)
    for names in OPTIONS:
        parser.add_argument(*names.split())
    parser.add_argument("overrides", nargs="*")

    def refuse(message: str) -> NoReturn:
        fail(f"{message}; settings are written key=value (see --help)")

    parser.error = refuse  # type: ignore[method-assign]
    given: list[str] = parser.parse_intermixed_args().overrides
    overrides = [quote_space(word) for word in given]
    sys.argv[1:] = [*(word for word in sys.argv[1:] if word not in given), *overrides]
    return overrides
