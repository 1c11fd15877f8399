"""A command over many cells.

    command                 `python -m src.sweep`, from the overrides to the exit status
    work, seeding           what a command waits for: a grid, or rounds of seeds (`search.work`: a search)
    supervisor              the command's process while its workers run
    engine, laboratory      the interface to what runs cells, and the functions behind it
    fork_server, drawing    what workers and drawers of maps are forked from (`preload`: what it loads)
    folder, processes       the paths of multirun/<sweep>, which workers may join, and the live processes
    status                  what another terminal sees, and changes
    notify                  the user's command at the first failure and at the end
    summary                 the end: table, maps, MLflow (`summary_notes`, `mlflow_columns`)
    study_commands          what `src.claims` and `src.anchors` share

`grid` turns overrides into cells, `queue` is the Optuna study with the locks of cells, `search` chooses cells by
earlier results, and `workers` starts the processes.
"""
