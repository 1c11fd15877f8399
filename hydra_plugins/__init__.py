"""A package, so that a folder of the same name elsewhere on the path does not replace or extend it."""
