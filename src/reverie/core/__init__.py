"""The layer everything else stands on: taps, modes, seeds, files, errors, sources, edits. Knows no method."""
