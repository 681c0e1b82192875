"""OUT: one file per destination; the file's name is `sink:` in the configuration. The seam is gateway.plugin.Sink.

A sink's `Options` may have a method `problem_with(written: str) -> str | None`: the house calls it with what `format:`
says when a configuration is checked. It answers what of the options does not go with that format, and what to try; the
value that it shows in quotes, or else the option that it names, is where the user is pointed to.
"""
