"""Pairing by seed, exact statistics, verdicts, tables and maps."""
