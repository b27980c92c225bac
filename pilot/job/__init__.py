"""The domain: values and rules of a PanDA job. Pure: no I/O, no clock, nothing of the other packages."""
