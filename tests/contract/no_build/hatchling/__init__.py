"""A build backend that builds nothing: pip asks one for a package's name even when it is only to download the sources."""
