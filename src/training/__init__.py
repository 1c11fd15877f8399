"""From runs to trained stages: plan, execute, fit; then the scores and files of a run."""
