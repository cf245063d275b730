"""The command `fastidm`: arguments in, a download, progress out. The only place of the package that prints."""
