"""IN: one file per protocol; the file's name is `driver:` in the configuration. The seam is gateway.plugin.Driver."""
