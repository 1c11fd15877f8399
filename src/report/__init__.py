"""The HTML page of a sweep, one file a section."""
