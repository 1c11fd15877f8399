"""The linear lab: the laboratory's own answers beside the exact ones of `src.theory`, row by row."""
