"""BETWEEN: one file per step; the file's name is the step's key in the configuration. The language is in language/."""
