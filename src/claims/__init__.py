"""Claims about sequential and combined training: studies, probes, evidence, contrasts, verdicts."""
