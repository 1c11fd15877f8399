"""The Optuna study of a sweep as a queue, and the locks of its cells."""
