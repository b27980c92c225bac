"""Those who look on while a pilot works: the view on a terminal, the metrics' port and file. Imported only when asked for."""
