"""OUT: one file per destination; the file's name is `sink:` in the configuration. The seam is gateway.plugin.Sink."""
